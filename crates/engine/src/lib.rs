//! The forward pass: token ids in, token ids out. This crate knows neither text nor HTTP.
#![forbid(unsafe_code)]
