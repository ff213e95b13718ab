//! `GET /openapi.json`: what there is to ask for, for programs that write clients (OpenAPI 3.1).
//!
//! The router is made of the same table ([`super::endpoints`]), so no endpoint can be missing here. Requests are described
//! by the fields that are read; who sends others is answered all the same, as OpenAI's servers do it. Answers have the
//! shapes of the APIs that they follow, which are described where those are: here stands what kind of document it is.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ArrayBuilder, OneOfBuilder, SchemaType};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, HttpMethod, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApiBuilder,
    PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
};

use super::with_type;
use crate::Server;

/// An endpoint, as it is described.
pub struct Endpoint {
    /// By which method.
    pub method: HttpMethod,
    /// Where; `{name}` stands for a part of the path.
    pub path: &'static str,
    /// Whose API it belongs to.
    pub tag: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Fields of the JSON object that it wants; none without a body.
    pub fields: &'static [&'static [Field]],
    /// What it answers with, the most usual first.
    pub answers: &'static [&'static str],
}

/// A field of a request.
pub struct Field(&'static str, Kind, Need, &'static str);

/// What a field holds.
enum Kind {
    Text,
    Flag,
    /// A number within bounds.
    Number(f64, f64),
    /// A whole number within bounds.
    Whole(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A text or a list of texts.
    Texts,
    /// A list of objects.
    Objects,
    Object,
    /// A list of token ids.
    Tokens,
    /// Texts or token ids, or lists of these.
    TextsOrTokens,
    Anything,
}

enum Need {
    Must,
    May,
}

use Kind::{Anything, Flag, Number, Object, Objects, Text, Texts, TextsOrTokens, Tokens, Whole, Word};
use Need::{May, Must};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const MOST: f64 = 9_007_199_254_740_991.0;

const MODEL: Field = Field("model", Text, May, "Name of a model; the first if there is none");
const STREAM: Field = Field("stream", Flag, May, "Whether the answer comes piece by piece");
const TOOLS: Field =
    Field("tools", Objects, May, "Functions that the model may call, in the shape of the API");

const ADD_GENERATION_PROMPT: Field = Field(
    "add_generation_prompt",
    Flag,
    May,
    "Whether the prompt ends where an answer begins; if not given, it does unless the last message is the assistant's",
);
const CONTINUE_FINAL_MESSAGE: Field = Field(
    "continue_final_message",
    Flag,
    May,
    "Whether the last message, the assistant's, is gone on with; it is if neither is given",
);

/// What most endpoints that answer have in common.
const SAMPLING: &[Field] = &[
    MODEL,
    STREAM,
    Field("temperature", Number(0.0, 100.0), May, "0 takes the likeliest token; 0.8 if not given"),
    Field("top_p", Number(1e-6, 1.0), May, "Share of the probability that is chosen from; 0.95 if not given"),
    Field("top_k", Whole(0.0, MOST), May, "Tokens that are chosen from; 0 for all"),
    Field("min_p", Number(0.0, 1.0), May, "Least probability, relative to the likeliest; 0.05 if not given"),
    Field("repetition_penalty", Number(0.01, 100.0), May, "Divides the logits of tokens that were said"),
    Field("frequency_penalty", Number(-2.0, 2.0), May, "Taken off a token's logit for each time it was said"),
    Field("presence_penalty", Number(-2.0, 2.0), May, "Taken off a token's logit once it was said"),
    Field("logit_bias", Object, May, "Token id to what is added to its logit, -100 to 100"),
    Field("seed", Whole(-MOST, MOST), May, "The same seed gives the same answer"),
    Field("stop", Texts, May, "Texts that end the answer, and are no part of it"),
    Field("ignore_eos", Flag, May, "Whether the model's own end is passed over"),
    Field("priority", Whole(-100.0, 100.0), May, "Lower is earlier; below 0 only with the scope admin"),
    Field("timeout_ms", Whole(1.0, MOST), May, "For the whole answer"),
    Field("return_progress", Flag, May, "Whether a stream tells how far the prompt is"),
    Field("lora", Objects, May, "`id` and `scale` of adapters; those not named are off"),
];
const MAX_TOKENS: &[Field] = &[
    Field("max_tokens", Whole(1.0, MOST), May, "Tokens of the answer, at most"),
    Field("max_completion_tokens", Whole(1.0, MOST), May, "The same; goes before it"),
    Field("n", Whole(1.0, 128.0), May, "Answers"),
    Field(
        "response_format",
        Object,
        May,
        "`type` text, json_object, or json_schema with `json_schema.schema`",
    ),
    Field("stream_options", Object, May, "`include_usage`"),
];
const CHAT_FIELDS: &[Field] = &[
    Field("messages", Objects, Must, "`role` and `content`, text or parts that are text"),
    TOOLS,
    Field("tool_choice", Anything, May, "auto, none, required, or one function"),
    Field("logprobs", Flag, May, "Whether each token's log probability is wanted"),
    Field("top_logprobs", Whole(0.0, 20.0), May, "And those of so many others"),
    Field("chat_template_kwargs", Object, May, "Variables of the model's chat template"),
    ADD_GENERATION_PROMPT,
    CONTINUE_FINAL_MESSAGE,
    Field("verbose", Flag, May, "Whether a whole answer tells its prompt and settings, in `__verbose`"),
];
const COMPLETION_FIELDS: &[Field] = &[
    Field("prompt", TextsOrTokens, Must, "What is to be continued"),
    Field("echo", Flag, May, "Whether the prompt comes first"),
    Field("best_of", Whole(1.0, 128.0), May, "No other than n"),
    Field("logprobs", Whole(0.0, 20.0), May, "Log probabilities of each token and so many others"),
];
const RESPONSES_FIELDS: &[Field] = &[
    Field("input", Anything, Must, "A text, or a list of messages and calls"),
    Field("instructions", Text, May, "What the system says first"),
    Field("max_output_tokens", Whole(1.0, MOST), May, "Tokens of the answer, at most"),
    Field("text", Object, May, "`format`: type text, json_object or json_schema"),
    TOOLS,
    Field("tool_choice", Anything, May, "auto, none, required, or one function"),
];
const LLAMA_FIELDS: &[Field] = &[
    Field("prompt", Anything, Must, "A text, token ids, both mixed, or a list of these"),
    Field("n_predict", Whole(-1.0, MOST), May, "Tokens of the answer, at most; -1 for no limit"),
    Field("n_probs", Whole(0.0, 20.0), May, "Log probabilities of each token and so many others"),
    Field(
        "post_sampling_probs",
        Flag,
        May,
        "Whether these are those that were drawn by, not the model's own",
    ),
    Field("grammar", Text, May, "What the answer must look like, in GBNF"),
    Field("json_schema", Object, May, "A JSON schema that the answer must follow"),
    Field("logit_bias", Anything, May, "Pairs of a token, as id or text, and what is added to its logit"),
    Field("return_tokens", Flag, May, "Whether the answer's token ids are told"),
    Field("timings_per_token", Flag, May, "Whether each piece tells where the time went"),
    Field("response_fields", Texts, May, "Fields of the answer that are wanted"),
];
const CONVERSATION_FIELDS: &[Field] = &[
    MODEL,
    Field("messages", Objects, Must, "`role` and `content`, text or parts that are text"),
    TOOLS,
    Field("tool_choice", Anything, May, "auto, none, required, or one function"),
    Field("chat_template_kwargs", Object, May, "Variables of the model's chat template"),
    ADD_GENERATION_PROMPT,
    CONTINUE_FINAL_MESSAGE,
];
const MESSAGES_FIELDS: &[Field] = &[
    Field("messages", Objects, Must, "`role` user or assistant, and `content`"),
    Field("system", Anything, May, "What the system says first"),
    TOOLS,
    Field("tool_choice", Object, May, "`type` auto, any, none, or tool with its name"),
];
const MESSAGES_ANSWER: &[Field] = &[
    Field("max_tokens", Whole(1.0, MOST), Must, "Tokens of the answer, at most"),
    Field("stop_sequences", Texts, May, "Texts that end the answer"),
];
const OLLAMA: &[Field] = &[
    Field("model", Text, Must, "Name of a model, with or without `:latest`"),
    Field("stream", Flag, May, "Whether the answer comes piece by piece; it does if not given"),
    Field("format", Anything, May, "\"json\" or a JSON schema"),
    Field("think", Anything, May, "Whether the model is to think first, for templates that know it"),
    Field("logprobs", Flag, May, "Whether each token's log probability is wanted"),
    Field("top_logprobs", Whole(0.0, 20.0), May, "And those of so many others"),
    Field(
        "options",
        Object,
        May,
        "temperature, top_k, top_p, min_p, repeat_penalty, seed, stop, num_predict",
    ),
];

/// All but the page. The order is that of the document.
pub const CHAT: Endpoint = Endpoint {
    method: HttpMethod::Post,
    path: "/v1/chat/completions",
    tag: "OpenAI",
    summary: "Answers a conversation",
    fields: &[CHAT_FIELDS, SAMPLING, MAX_TOKENS],
    answers: &[JSON, EVENTS],
};
/// See [`CHAT`], here and below.
pub const COMPLETIONS: Endpoint = Endpoint {
    path: "/v1/completions",
    summary: "Continues a text",
    fields: &[COMPLETION_FIELDS, SAMPLING, MAX_TOKENS],
    ..CHAT
};
#[allow(missing_docs)]
pub const RESPONSES: Endpoint = Endpoint {
    path: "/v1/responses",
    summary: "Answers a text or a conversation, by the newer API",
    fields: &[RESPONSES_FIELDS, SAMPLING],
    ..CHAT
};
#[allow(missing_docs)]
pub const EMBEDDINGS: Endpoint = Endpoint {
    path: "/v1/embeddings",
    summary: "Makes a vector of each text",
    fields: &[&[
        MODEL,
        Field("input", TextsOrTokens, Must, "At most 2048 texts"),
        Field("encoding_format", Word(&["float", "base64"]), May, "How vectors are written"),
        Field("dimensions", Whole(1.0, MOST), May, "None but the model's own"),
    ]],
    answers: &[JSON],
    ..CHAT
};
#[allow(missing_docs)]
pub const RERANK: Endpoint = Endpoint {
    path: "/v1/rerank",
    tag: "Ranking",
    summary: "Orders documents by how near they are to a query",
    fields: &[&[
        MODEL,
        Field("query", Text, Must, "What is looked for"),
        Field(
            "documents",
            Texts,
            Must,
            "At most 2047 texts; in the field `texts`, the answer is a list of index and score",
        ),
        Field("top_n", Whole(1.0, MOST), May, "Results, at most"),
        Field("return_documents", Flag, May, "Whether results hold their texts"),
    ]],
    ..EMBEDDINGS
};
#[allow(missing_docs)]
pub const MESSAGES: Endpoint = Endpoint {
    path: "/v1/messages",
    tag: "Anthropic",
    summary: "Answers a conversation",
    fields: &[MESSAGES_FIELDS, MESSAGES_ANSWER, SAMPLING],
    ..CHAT
};
#[allow(missing_docs)]
pub const COUNT_TOKENS: Endpoint = Endpoint {
    path: "/v1/messages/count_tokens",
    summary: "Counts the tokens of a conversation",
    fields: &[&[MODEL], MESSAGES_FIELDS],
    answers: &[JSON],
    ..MESSAGES
};
#[allow(missing_docs)]
pub const OLLAMA_CHAT: Endpoint = Endpoint {
    path: "/api/chat",
    tag: "Ollama",
    summary: "Answers a conversation",
    fields: &[OLLAMA, &[Field("messages", Objects, May, "`role` and `content`"), TOOLS]],
    answers: &[LINES, JSON],
    ..CHAT
};
#[allow(missing_docs)]
pub const OLLAMA_GENERATE: Endpoint = Endpoint {
    path: "/api/generate",
    summary: "Answers a prompt",
    fields: &[
        OLLAMA,
        &[
            Field("prompt", Text, May, "What is asked; without it, the model is said to be loaded"),
            Field("system", Text, May, "What the system says first"),
            Field("raw", Flag, May, "Whether the prompt is continued as it is"),
            Field("context", Tokens, May, "What has been said before, as the last answer told it"),
        ],
    ],
    ..OLLAMA_CHAT
};
#[allow(missing_docs)]
pub const OLLAMA_EMBED: Endpoint = Endpoint {
    path: "/api/embed",
    summary: "Makes a vector of length 1 of each text",
    fields: &[&[
        Field("model", Text, Must, "Name of a model, with or without `:latest`"),
        Field("input", Texts, Must, "At most 2048 texts"),
        Field(
            "truncate",
            Flag,
            May,
            "Whether long texts are cut off, and not refused; they are if not given",
        ),
        Field("options", Object, May, "`num_ctx`: tokens of a text, at most"),
    ]],
    answers: &[JSON],
    ..OLLAMA_CHAT
};
#[allow(missing_docs)]
pub const OLLAMA_EMBEDDINGS: Endpoint = Endpoint {
    path: "/api/embeddings",
    summary: "Makes a vector of length 1 of a text; what /api/embed has replaced",
    fields: &[&[
        Field("model", Text, Must, "Name of a model, with or without `:latest`"),
        Field("prompt", Text, Must, "The text; cut off if it is long"),
    ]],
    ..OLLAMA_EMBED
};
#[allow(missing_docs)]
pub const OLLAMA_TAGS: Endpoint = Endpoint {
    method: HttpMethod::Get,
    path: "/api/tags",
    summary: "Lists the models",
    fields: &[],
    ..OLLAMA_EMBED
};
#[allow(missing_docs)]
pub const OLLAMA_PS: Endpoint = Endpoint {
    path: "/api/ps",
    summary: "Lists the models that are in memory, which are all",
    ..OLLAMA_TAGS
};
#[allow(missing_docs)]
pub const OLLAMA_SHOW: Endpoint = Endpoint {
    path: "/api/show",
    summary: "Describes a model",
    fields: &[&[Field("model", Text, Must, "Name of a model, with or without `:latest`")]],
    ..OLLAMA_EMBED
};
#[allow(missing_docs)]
pub const OLLAMA_VERSION: Endpoint =
    Endpoint { path: "/api/version", summary: "The server's version", ..OLLAMA_TAGS };
#[allow(missing_docs)]
pub const MODELS: Endpoint =
    Endpoint { path: "/v1/models", tag: "OpenAI", summary: "Lists the models", ..OLLAMA_TAGS };
#[allow(missing_docs)]
pub const MODEL_NAMED: Endpoint =
    Endpoint { path: "/v1/models/{name}", summary: "Describes a model", ..MODELS };
#[allow(missing_docs)]
pub const TOKENIZE: Endpoint = Endpoint {
    path: "/tokenize",
    tag: "Tokens",
    summary: "The tokens of a text",
    fields: &[&[
        MODEL,
        Field("content", Text, Must, "The text"),
        Field("add_special", Flag, May, "Whether the tokens that the model wants around a text are added"),
        Field(
            "parse_special",
            Flag,
            May,
            "Whether control tokens are read in the text; they are if not given",
        ),
        Field("with_pieces", Flag, May, "Whether each token comes with its text"),
    ]],
    ..EMBEDDINGS
};
#[allow(missing_docs)]
pub const DETOKENIZE: Endpoint = Endpoint {
    path: "/detokenize",
    summary: "The text of tokens",
    fields: &[&[MODEL, Field("tokens", Tokens, Must, "Token ids")]],
    ..TOKENIZE
};
#[allow(missing_docs)]
pub const LOAD: Endpoint = Endpoint {
    path: "/admin/models/load",
    tag: "Administration",
    summary: "Loads a model, where the server allows it; needs the scope admin",
    fields: &[&[
        Field("model", Text, Must, "A name, hf:org/repo[/file.gguf] or a path, as on the command line"),
        Field("make_room", Flag, May, "Whether models with nothing to do may go for it if memory is short"),
    ]],
    ..EMBEDDINGS
};
#[allow(missing_docs)]
pub const UNLOAD: Endpoint = Endpoint {
    path: "/admin/models/unload",
    summary: "Takes a model off the list; what it has begun it finishes. Needs the scope admin",
    fields: &[&[Field("model", Text, Must, "Its name here")]],
    ..LOAD
};
#[allow(missing_docs)]
pub const SWAP: Endpoint = Endpoint {
    path: "/admin/models/swap",
    summary: "Lets another model answer to a name, without a request lost; needs the scope admin",
    fields: &[&[
        Field("model", Text, Must, "The name here"),
        Field("with", Text, Must, "A name, hf:org/repo[/file.gguf] or a path, as on the command line"),
    ]],
    ..LOAD
};
#[allow(missing_docs)]
pub const LOAD_ADAPTER: Endpoint = Endpoint {
    path: "/admin/adapters/load",
    summary: "Loads a LoRA adapter for a model, where the server allows it; needs the scope admin",
    fields: &[&[
        MODEL,
        Field("adapter", Text, Must, "Path of a GGUF file, or of a folder that peft has saved"),
        Field(
            "scale",
            Number(-100.0, 100.0),
            May,
            "How strong it is where a request does not say; 1 if not given",
        ),
    ]],
    ..LOAD
};
#[allow(missing_docs)]
pub const UNLOAD_ADAPTER: Endpoint = Endpoint {
    path: "/admin/adapters/unload",
    summary: "Takes an adapter off the list; what has begun with it ends with it. Needs the scope admin",
    fields: &[&[MODEL, Field("id", Whole(0.0, MOST), Must, "Its id here")]],
    ..LOAD
};
#[allow(missing_docs)]
pub const HEALTH: Endpoint = Endpoint {
    path: "/health",
    tag: "Operation",
    summary: "Whether the server is there; no key needed",
    ..MODELS
};
#[allow(missing_docs)]
pub const READY: Endpoint =
    Endpoint { path: "/ready", summary: "Whether it takes requests; no key needed", ..HEALTH };
#[allow(missing_docs)]
pub const METRICS: Endpoint = Endpoint {
    path: "/metrics",
    summary: "How it does, for Prometheus; needs the scope admin",
    answers: &["text/plain"],
    ..HEALTH
};
#[allow(missing_docs)]
pub const OPENAPI: Endpoint = Endpoint { path: "/openapi.json", summary: "This document", ..HEALTH };

#[allow(missing_docs)]
pub const LLAMA_COMPLETION: Endpoint = Endpoint {
    path: "/completion",
    tag: "llama.cpp",
    summary: "Continues a text",
    fields: &[LLAMA_FIELDS, SAMPLING],
    ..CHAT
};
#[allow(missing_docs)]
pub const LLAMA_EMBEDDING: Endpoint = Endpoint {
    path: "/embedding",
    summary: "Makes a vector of each text",
    fields: &[&[MODEL, Field("input", TextsOrTokens, Must, "At most 2048 texts; `content` will do, too")]],
    answers: &[JSON],
    ..LLAMA_COMPLETION
};
#[allow(missing_docs)]
pub const APPLY_TEMPLATE: Endpoint = Endpoint {
    path: "/apply-template",
    summary: "Writes a conversation as the model's template does",
    fields: &[CONVERSATION_FIELDS],
    ..LLAMA_EMBEDDING
};
#[allow(missing_docs)]
pub const INPUT_TOKENS: Endpoint = Endpoint {
    path: "/chat/completions/input_tokens",
    summary: "Counts the tokens of a conversation",
    ..APPLY_TEMPLATE
};
#[allow(missing_docs)]
pub const PROPS: Endpoint =
    Endpoint { path: "/props", tag: "llama.cpp", summary: "What the first model can do", ..MODELS };
#[allow(missing_docs)]
pub const SLOTS: Endpoint = Endpoint {
    path: "/slots",
    summary: "Places for answers, and how many are taken; needs the scope admin",
    ..PROPS
};

#[allow(missing_docs)]
pub const ADAPTERS: Endpoint =
    Endpoint { path: "/lora-adapters", summary: "Lists the LoRA adapters of the first model", ..PROPS };
#[allow(missing_docs)]
pub const SET_ADAPTERS: Endpoint = Endpoint {
    method: HttpMethod::Post,
    summary: "Sets how strong they are where a request does not say; a list alone will do, too. Needs the scope admin",
    fields: &[&[MODEL, Field("adapters", Objects, Must, "`id` and `scale`; those not named are off")]],
    ..ADAPTERS
};

/// A file of the page.
pub const fn page(path: &'static str) -> Endpoint {
    Endpoint { path, tag: "Page", summary: "A file of the page for people", answers: &["*/*"], ..HEALTH }
}

/// `GET /openapi.json`
pub async fn document(State(_): State<Arc<Server>>) -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text =
        TEXT.get_or_init(|| describe(super::endpoints().iter().map(|(endpoint, _)| endpoint)).to_string());
    with_type(Body::from(text.clone()), JSON)
}

/// The document of these endpoints.
pub fn describe<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Value {
    let mut paths = PathsBuilder::new();
    for endpoint in endpoints {
        paths = paths.path(endpoint.path, PathItem::new(endpoint.method.clone(), endpoint.operation()));
    }
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let text = |description| ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    let error = ObjectBuilder::new()
        .description(Some("Of Anthropic's and Ollama's endpoints in their shapes"))
        .property(
            "error",
            ObjectBuilder::new()
                .property("message", text("What is wrong, and what to do"))
                .property("type", text("A kind of error"))
                .property("param", SchemaBuilder::nullable_text("The field it is about"))
                .property("code", SchemaBuilder::nullable_text("A word for programs"))
                .required("message"),
        )
        .required("error");
    let components = ComponentsBuilder::new().security_scheme("key", bearer).schema("Error", error).build();
    let info = InfoBuilder::new()
        .title("Edgeward")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Models on this machine. A key is needed where the server asks for one; which scope it must have is the same \
             for all endpoints that answer (chat) and that make vectors (embed).",
        ))
        .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").build()))
        .build();
    let document = OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components))
        // With a key, and without where none is asked for.
        .security(Some([SecurityRequirement::new("key", [""; 0]), SecurityRequirement::default()]))
        .build();
    serde_json::to_value(document).expect("strings and numbers make JSON")
}

struct SchemaBuilder;

impl SchemaBuilder {
    fn nullable_text(description: &str) -> ObjectBuilder {
        ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some(description))
    }
}

impl Endpoint {
    /// The same under another path.
    pub const fn at(self, path: &'static str) -> Endpoint {
        Endpoint { path, ..self }
    }

    fn operation(&self) -> OperationBuilder {
        let mut good = ResponseBuilder::new().description("The answer");
        for kind in self.answers {
            let schema = match *kind {
                JSON => ObjectBuilder::new(),
                _ => ObjectBuilder::new().schema_type(Type::String),
            };
            good = good.content(*kind, Content::new(Some(schema)));
        }
        let bad = ResponseBuilder::new()
            .description("What is wrong, and what to do")
            .content(JSON, Content::new(Some(Ref::from_schema_name("Error"))));
        let mut operation = OperationBuilder::new()
            .tag(self.tag)
            .summary(Some(self.summary))
            .response("200", good)
            .response("default", bad);
        for name in self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            operation = operation.parameter(parameter);
        }
        if !self.fields.is_empty() {
            let mut body = ObjectBuilder::new();
            for Field(name, kind, need, description) in self.fields.iter().copied().flatten() {
                // Where two lists have a field, the first tells.
                let schema = AllOfBuilder::new().item(kind.schema()).description(Some(*description));
                body = body.property(*name, schema);
                if matches!(need, Must) {
                    body = body.required(*name);
                }
            }
            let body = RequestBodyBuilder::new()
                .content(JSON, Content::new(Some(body)))
                .required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        operation
    }
}

impl Kind {
    fn schema(&self) -> RefOr<Schema> {
        let of = |kind: Type| ObjectBuilder::new().schema_type(kind);
        let list = |item: RefOr<Schema>| ArrayBuilder::new().items(item);
        let ids = || list(of(Type::Integer).minimum(Some(0)).into());
        match self {
            Text => of(Type::String).into(),
            Flag => of(Type::Boolean).into(),
            Number(min, max) => of(Type::Number).minimum(Some(*min)).maximum(Some(*max)).into(),
            Whole(min, max) => of(Type::Integer).minimum(Some(*min)).maximum(Some(*max)).into(),
            Word(words) => of(Type::String).enum_values(Some(words.iter().copied())).into(),
            Texts => OneOfBuilder::new().item(of(Type::String)).item(list(of(Type::String).into())).into(),
            Objects => list(of(Type::Object).into()).into(),
            Object => of(Type::Object).into(),
            Tokens => ids().into(),
            TextsOrTokens => {
                let lists = ArrayBuilder::new().items(RefOr::from(
                    OneOfBuilder::new().item(of(Type::String)).item(of(Type::Integer)).item(ids()),
                ));
                OneOfBuilder::new().item(of(Type::String)).item(lists).into()
            }
            Anything => ObjectBuilder::new().schema_type(SchemaType::AnyValue).into(),
        }
    }
}
