# docker build -t edgeward . && docker run -p 127.0.0.1:8080:8080 -v edgeward:/data edgeward serve smollm2-135m
#
# Within the container the server must listen on all addresses, or nobody could reach it; so it serves with TLS and asks
# for keys (`docker run -v edgeward:/data edgeward keys add NAME` comes first), unless --insecure is spelled out where
# only this machine can reach the port, as above.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /edgeward
COPY . .
RUN cargo build --release --locked --package edgeward

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /data --create-home edgeward
COPY --from=build /edgeward/target/release/edgeward /usr/local/bin/edgeward
USER edgeward
ENV EDGEWARD_HOME=/data EDGEWARD_SERVE_HOST=0.0.0.0
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["edgeward"]
CMD ["serve"]
