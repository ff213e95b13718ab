//! How an answer is to be made: the fields that OpenAI's endpoints have in common.

use std::time::{Duration, Instant};

use edgeward_engine::SamplerOptions;
use serde_json::Value;

use super::adapters;
use crate::Server;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::gate::Call;
use crate::grammar::Grammar;
use crate::scheduler::Request;
use crate::text::ModelText;

/// Stop texts, at most.
pub const MAX_STOPS: usize = 16;
/// Biased tokens, at most.
pub const MAX_BIASES: usize = 1024;
/// Answers to one prompt, at most.
pub const MAX_CHOICES: usize = 128;

/// Temperature where none is asked for: small models ramble at OpenAI's 1.
pub const TEMPERATURE: f32 = 0.8;
/// Likewise, against what is unlikely.
const TOP_P: f32 = 0.95;
const MIN_P: f32 = 0.05;
/// How many of the last tokens count for penalties.
const PENALTY_WINDOW: usize = 64;

/// What is not for this server to do, wherever it is asked for.
const UNSUPPORTED: [&str; 3] = ["audio", "prediction", "web_search_options"];

/// A request without its prompt.
pub fn request(fields: &mut Fields, server: &Server, call: &Call) -> Result<Request, ApiError> {
    if fields.value("modalities").is_some_and(|value| value != serde_json::json!(["text"])) {
        return Err(fields.error("modalities", "only text is supported").code("unsupported"));
    }
    fields.refuse(&UNSUPPORTED)?;
    let usual = defaults(server);
    let seed = fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64).or(server.default_seed);
    let sampling = SamplerOptions {
        temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(usual.temperature),
        top_k: fields.count("top_k", 0..=usize::MAX)?.unwrap_or(usual.top_k),
        top_p: fields.number("top_p", 1e-6..=1.0)?.unwrap_or(usual.top_p),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(usual.min_p),
        repetition_penalty: fields
            .number("repetition_penalty", 0.01..=100.0)?
            .unwrap_or(usual.repetition_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(usual.frequency_penalty),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(usual.presence_penalty),
        penalty_window: usual.penalty_window,
        logit_bias: logit_bias(fields)?,
        seed: seed.unwrap_or_else(random_seed),
    };
    let is_repeatable = seed.is_some() || sampling.temperature == 0.0;
    let limit = fields.count("max_completion_tokens", 1..=usize::MAX)?;
    let limit = limit.or(fields.count("max_tokens", 1..=usize::MAX)?);
    let priority = fields.integer("priority", -100..=100)?.unwrap_or(0) as i32;
    if priority < 0 && !call.is_admin {
        return Err(fields.error("priority", "only a key with the scope admin may go before others"));
    }
    // As llama.cpp has it, an empty list asks for nothing in particular.
    let lora = adapters::scales(fields, "lora")?.filter(|scales| !scales.is_empty());
    let timeout = fields.count("timeout_ms", 1..=server.max_duration.as_millis() as usize)?;
    let timeout = timeout.map_or(server.max_duration, |ms| Duration::from_millis(ms as u64));
    Ok(Request {
        sampling,
        is_repeatable,
        max_tokens: limit.unwrap_or(server.default_max_tokens),
        stop_strings: fields.strings("stop", MAX_STOPS)?.unwrap_or_default(),
        ignores_end: fields.bool("ignore_eos")?.unwrap_or(false),
        n_choices: fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1),
        priority,
        wants_progress: fields.bool("return_progress")?.unwrap_or(false),
        lora,
        deadline: Some(Instant::now() + timeout),
        ..Request::default()
    })
}

/// How tokens are chosen where a request says nothing.
pub fn defaults(server: &Server) -> SamplerOptions {
    SamplerOptions {
        temperature: server.default_temperature.unwrap_or(TEMPERATURE),
        top_p: TOP_P,
        min_p: MIN_P,
        penalty_window: PENALTY_WINDOW,
        seed: server.default_seed.unwrap_or(0),
        ..SamplerOptions::default()
    }
}

/// A seed by chance.
fn random_seed() -> u64 {
    // Without chance, an answer is the same as the last time, which is no harm.
    getrandom::u64().unwrap_or(0)
}

/// `{"ID": BIAS}`
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let biases = biases.into_map();
    if biases.len() > MAX_BIASES {
        return Err(fields.error("logit_bias", format!("at most {MAX_BIASES} tokens can be biased")));
    }
    let bias = |(id, bias): (String, Value)| {
        let number = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let wrong =
            || fields.error("logit_bias", format!("{id:?} must be a token id, its bias from -100 to 100"));
        Ok((id.parse().map_err(|_| wrong())?, number.ok_or_else(wrong)? as f32))
    };
    biases.into_iter().map(bias).collect()
}

/// What form an answer is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON by a schema, which is in the field named.
    JsonSchema(Value, String),
    /// Text by a grammar in llama.cpp's notation.
    Gbnf(String),
}

impl ResponseFormat {
    /// From the field `response_format`, or from `json_schema` or `grammar`, which llama.cpp's clients send.
    pub fn read(fields: &mut Fields) -> Result<ResponseFormat, ApiError> {
        let schema = fields.value("json_schema");
        let grammar = fields.string("grammar")?.filter(|grammar| !grammar.is_empty());
        let format = fields.object("response_format")?;
        let mut format = match (format, schema, grammar) {
            (None, None, None) => return Ok(ResponseFormat::Text),
            (None, Some(schema), None) => {
                return Ok(ResponseFormat::JsonSchema(schema, fields.name("json_schema")));
            }
            (None, None, Some(grammar)) => return Ok(ResponseFormat::Gbnf(grammar)),
            (Some(format), None, None) => format,
            _ => {
                let message = "only one of response_format, json_schema and grammar can be followed";
                return Err(fields.error("response_format", message));
            }
        };
        let kinds = [("text", 0), ("json_object", 1), ("json_schema", 2)];
        let kind = format.choice("type", &kinds)?;
        match format.required("type", kind)? {
            0 => Ok(ResponseFormat::Text),
            1 => match format.value("schema") {
                Some(schema) => Ok(ResponseFormat::JsonSchema(schema, format.name("schema"))),
                None => Ok(ResponseFormat::JsonObject),
            },
            _ => {
                let inner = format.object("json_schema")?;
                let mut inner = format.required("json_schema", inner)?;
                let schema = inner.value("schema");
                Ok(ResponseFormat::JsonSchema(inner.required("schema", schema)?, inner.name("schema")))
            }
        }
    }

    /// Its grammar, if it needs one. Takes a while.
    pub fn grammar(&self, text: &ModelText) -> Result<Option<Grammar>, ApiError> {
        match self {
            ResponseFormat::Text => Ok(None),
            ResponseFormat::JsonObject => {
                text.grammar("response_format", |grammars| grammars.json_object()).map(Some)
            }
            ResponseFormat::JsonSchema(schema, param) => {
                text.grammar(param, |grammars| grammars.json_schema(schema)).map(Some)
            }
            ResponseFormat::Gbnf(source) => {
                text.grammar("grammar", |grammars| grammars.gbnf(source)).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn biases() {
        let read =
            |value: Value| logit_bias(&mut Fields::of_request(json!({ "logit_bias": value })).unwrap());
        assert_eq!(read(json!({ "5": -100, "7": 1.5 })), Ok(vec![(5, -100.0), (7, 1.5)]));
        for wrong in
            [json!({ "x": 1 }), json!({ "-1": 1 }), json!({ "1": 101 }), json!({ "1": "2" }), json!([1])]
        {
            assert_eq!(read(wrong).unwrap_err().param.as_deref(), Some("logit_bias"));
        }
    }

    #[test]
    fn formats() {
        let read = |value: Value| {
            ResponseFormat::read(&mut Fields::of_request(json!({ "response_format": value })).unwrap())
        };
        assert_eq!(read(json!(null)), Ok(ResponseFormat::Text));
        assert_eq!(read(json!({ "type": "json_object" })), Ok(ResponseFormat::JsonObject));
        let schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": {} } });
        let param = "response_format.json_schema.schema".to_owned();
        assert_eq!(read(schema), Ok(ResponseFormat::JsonSchema(json!({}), param)));
        let schema = json!({ "type": "json_object", "schema": {} });
        assert_eq!(
            read(schema),
            Ok(ResponseFormat::JsonSchema(json!({}), "response_format.schema".to_owned()))
        );
        let read_all = |value: Value| ResponseFormat::read(&mut Fields::of_request(value).unwrap());
        let schema = ResponseFormat::JsonSchema(json!({}), "json_schema".to_owned());
        assert_eq!(read_all(json!({ "json_schema": {}, "grammar": "" })), Ok(schema));
        assert_eq!(read_all(json!({ "grammar": "x" })), Ok(ResponseFormat::Gbnf("x".to_owned())));
        assert!(read_all(json!({ "grammar": "x", "json_schema": {} })).is_err());
        for (wrong, param) in [
            (json!({ "type": "xml" }), "response_format.type"),
            (json!({}), "response_format.type"),
            (json!({ "type": "json_schema" }), "response_format.json_schema"),
            (json!({ "type": "json_schema", "json_schema": {} }), "response_format.json_schema.schema"),
        ] {
            assert_eq!(read(wrong).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
