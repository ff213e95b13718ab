//! Grammars that an answer must follow: from JSON schemas, JSON at large, and tools, through `llguidance`.
//!
//! At each token the grammar rules out every token that cannot go on to a valid answer; the sampler then chooses among
//! the rest. A schema that cannot be enforced in full is refused when the request arrives, never ignored.

use std::fmt;
use std::sync::Arc;

use edgeward_model::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::gbnf;

/// The longest schema that is compiled, bytes as JSON: published ones have a tenth.
const MAX_SCHEMA_BYTES: usize = 256 << 10;

/// Compiles grammars for one model's vocabulary.
pub struct GrammarFactory {
    factory: ParserFactory,
}

/// Where an answer is in its grammar.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    /// What it was compiled from, as JSON.
    source: Arc<str>,
}

/// Why there is no grammar, or it cannot go on: in words for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrammarError(String);

impl fmt::Display for GrammarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GrammarError {}

impl GrammarError {
    /// The same, said of a part with a name.
    pub fn within(self, name: &str) -> GrammarError {
        GrammarError(format!("{name}: {}", self.0))
    }
}

impl GrammarFactory {
    /// For a tokenizer's vocabulary.
    ///
    /// # Errors
    /// If the model has no token that ends an answer, or the vocabulary cannot be used.
    pub fn new(tokenizer: &Tokenizer) -> Result<GrammarFactory, GrammarError> {
        let n_ids = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..n_ids)
            .map(|id| match tokenizer.token_bytes(id) {
                // The marker keeps control tokens apart from text that looks like them.
                Ok(bytes) if tokenizer.is_control(id) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                Ok(bytes) => bytes.to_vec(),
                Err(_) => Vec::new(),
            })
            .collect();
        let [end, ..] = tokenizer.end_ids() else {
            return Err(GrammarError("this model has no token that ends an answer".into()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(n_ids, *end), &words).with_eos_tokens(tokenizer.end_ids());
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| GrammarError(error.to_string()))?;
        factory.quiet();
        Ok(GrammarFactory { factory })
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// If the vocabulary cannot spell one.
    pub fn json_object(&self) -> Result<Grammar, GrammarError> {
        self.json_schema(&serde_json::json!({ "type": "object" }))
    }

    /// JSON that is valid by `schema`.
    ///
    /// # Errors
    /// If the schema is none, is too large, or asks for what cannot be enforced.
    pub fn json_schema(&self, schema: &Value) -> Result<Grammar, GrammarError> {
        let size_bytes = schema.to_string().len();
        if size_bytes > MAX_SCHEMA_BYTES {
            return Err(GrammarError(format!(
                "the schema has {size_bytes} bytes where {MAX_SCHEMA_BYTES} are the most"
            )));
        }
        self.compile(TopLevelGrammar::from_json_schema(GrammarFactory::fixed_layout(schema.clone())?))
    }

    /// A schema that leaves white space no choice: else a model may go on with it for ever, and be valid all the while.
    ///
    /// # Errors
    /// If it is no object.
    pub fn fixed_layout(schema: Value) -> Result<Value, GrammarError> {
        let Value::Object(mut schema) = schema else {
            return Err(GrammarError("a schema is a JSON object".into()));
        };
        let layout = serde_json::json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "
        });
        schema.insert("x-guidance".to_owned(), layout);
        Ok(schema.into())
    }

    /// Text by a grammar in llguidance's dialect of Lark.
    ///
    /// # Errors
    /// If it is none, or asks for what cannot be enforced.
    pub fn lark(&self, source: String) -> Result<Grammar, GrammarError> {
        self.compile(TopLevelGrammar::from_lark(source))
    }

    /// Text by a grammar in llama.cpp's notation.
    ///
    /// # Errors
    /// If it is none, or asks for what cannot be enforced.
    pub fn gbnf(&self, source: &str) -> Result<Grammar, GrammarError> {
        self.lark(gbnf::to_lark(source).map_err(GrammarError)?)
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Grammar, GrammarError> {
        let source = serde_json::to_string(&grammar).map_err(|error| GrammarError(error.to_string()))?.into();
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError(first_line(&error)));
        }
        // A warning is a part of the grammar that would not be enforced.
        match matcher.grammar_warnings().first() {
            Some(warning) => Err(GrammarError(first_line(warning))),
            None => Ok(Grammar { matcher, source }),
        }
    }
}

impl Grammar {
    /// Rules out the tokens that cannot come next. `logits` is `[vocab_size]`.
    ///
    /// # Errors
    /// If following the grammar became too costly.
    pub fn restrict(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        let mask = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| GrammarError(first_line(&error.to_string())))?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= mask.len() || !mask.is_allowed(id as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// The answer goes on with `token`.
    ///
    /// # Errors
    /// If the grammar does not allow it.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token).map_err(|error| GrammarError(first_line(&error.to_string())))
    }

    /// Whether nothing can follow but the end.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// What it was compiled from: two of the same source and vocabulary allow the same at their beginning.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("is_complete", &self.is_complete()).finish_non_exhaustive()
    }
}

/// Errors of `llguidance` go on with a dump of its state.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
