//! A model's words: from conversations and text to tokens, and back.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use edgeward_model::chat::{self, ChatOptions, ChatTemplate, GenerationPrompt, Message};
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use edgeward_model::{EncoderModel, Model};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::grammar::{Grammar, GrammarError, GrammarFactory};

/// Tokenizer, chat template and grammars of one model.
pub struct ModelText {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    /// Variables for the template where a request has no others.
    variables: Map<String, Value>,
    /// Whether texts are lower-cased before they are encoded.
    lowercases: bool,
    /// Made when first wanted: a large vocabulary takes a second.
    grammars: OnceLock<Result<GrammarFactory, GrammarError>>,
}

impl ModelText {
    /// Of an open model; `template` in place of the model's own, if given.
    ///
    /// # Errors
    /// If the model's vocabulary or template cannot be used.
    pub fn new(
        model: &Model,
        template: Option<ChatTemplate>,
    ) -> Result<ModelText, edgeward_model::TextError> {
        let template = match template {
            Some(template) => Some(template),
            None => model.chat_template()?,
        };
        let tokenizer = Arc::new(model.tokenizer()?);
        let variables = Map::new();
        Ok(ModelText { tokenizer, template, variables, lowercases: false, grammars: OnceLock::new() })
    }

    /// With these variables for its template, where a request has no others.
    pub fn with_variables(self, variables: Map<String, Value>) -> ModelText {
        ModelText { variables, ..self }
    }

    /// Of a model that makes vectors.
    ///
    /// # Errors
    /// If the model's vocabulary cannot be used.
    pub fn of_encoder(model: &EncoderModel) -> Result<ModelText, edgeward_model::TextError> {
        let tokenizer = Arc::new(model.tokenizer()?);
        let lowercases = model.config().lowercases;
        let variables = Map::new();
        Ok(ModelText { tokenizer, template: None, variables, lowercases, grammars: OnceLock::new() })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The template that conversations are written by, if there is one.
    pub fn template_source(&self) -> Option<&str> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// Tokens of a text as it is; what looks like a control token in it is text.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, text: &str, add_special: AddSpecial) -> Result<Vec<u32>, ApiError> {
        self.encode_with(text, add_special, ParseSpecial::No)
    }

    /// Tokens of a text.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode_with(
        &self,
        text: &str,
        add_special: AddSpecial,
        parse_special: ParseSpecial,
    ) -> Result<Vec<u32>, ApiError> {
        let text = if self.lowercases { Cow::from(text.to_lowercase()) } else { Cow::from(text) };
        self.tokenizer
            .encode(&text, add_special, parse_special)
            .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))
    }

    /// The conversation as the model's template writes it.
    ///
    /// # Errors
    /// If the model has no template, or the template refuses the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        variables: Option<&Map<String, Value>>,
        generation_prompt: GenerationPrompt,
    ) -> Result<String, ApiError> {
        let Some(template) = &self.template else {
            let message = "this model has no chat template: use /v1/completions, or start the server with \
                           --chat-template";
            return Err(ApiError::field("messages", message).code("no_chat_template"));
        };
        // No word of a request may steer the model: only the template writes control tokens.
        let messages: Vec<Message> =
            messages.iter().map(|message| message.guarded(&self.tokenizer)).collect();
        let tools = tools.map(|tools| chat::guarded(tools, &self.tokenizer));
        let guard = |(name, value): (&String, &Value)| (name.clone(), chat::guarded(value, &self.tokenizer));
        // The last that is said counts.
        let variables = self.variables.iter().chain(variables.into_iter().flatten());
        let mut variables: Map<String, Value> = variables.map(guard).collect();
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        // Templates of Llama 3 that cannot ask for the day themselves tell of one in 2024 unless told another.
        variables.entry("date_string").or_insert_with(|| chat::day(now_s).into());
        // Templates that know the word think unless told otherwise; some take silence for a no.
        let thinks = *variables.entry("enable_thinking").or_insert(true.into()) != Value::Bool(false);
        let options = ChatOptions {
            generation_prompt,
            bos_token: self.tokenizer.text_of(self.tokenizer.bos()),
            eos_token: self.tokenizer.text_of(self.tokenizer.eos()),
            tools: tools.as_ref(),
            variables: Some(&variables),
            now_s,
        };
        let rendered = template.apply(&messages, &options).map_err(|error| {
            let mut message = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                message.push_str(": ");
                message.push_str(&error.to_string());
                cause = error.source();
            }
            ApiError::field("messages", message)
        })?;
        // Some templates begin every answer with a thought.
        let has_begun =
            generation_prompt == GenerationPrompt::Add && rendered.trim_end().ends_with("<think>");
        Ok(if has_begun && !thinks { rendered + "</think>" } else { rendered })
    }

    /// Tokens of what [`ModelText::render`] wrote.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>, ApiError> {
        self.tokenizer.encode_chat(rendered).map_err(|error| ApiError::field("messages", error.to_string()))
    }

    /// A grammar that `make` compiles; `param` is the field that asks for it.
    ///
    /// # Errors
    /// If it cannot be enforced.
    pub fn grammar(
        &self,
        param: &str,
        make: impl FnOnce(&GrammarFactory) -> Result<Grammar, GrammarError>,
    ) -> Result<Grammar, ApiError> {
        let some = self.maybe_grammar(param, |grammars| make(grammars).map(Some))?;
        Ok(some.expect("there is one if it could be made"))
    }

    /// The same where there may be no need for one.
    ///
    /// # Errors
    /// If it cannot be enforced.
    pub fn maybe_grammar(
        &self,
        param: &str,
        make: impl FnOnce(&GrammarFactory) -> Result<Option<Grammar>, GrammarError>,
    ) -> Result<Option<Grammar>, ApiError> {
        let factory = self.grammars.get_or_init(|| GrammarFactory::new(&self.tokenizer));
        factory.as_ref().map_err(Clone::clone).and_then(make).map_err(|error| {
            ApiError::field(param, format!("{param}: this cannot be enforced: {error}"))
                .code("unsupported_grammar")
        })
    }

    /// The text of a token on its own; bytes that are no UTF-8 become U+FFFD.
    pub fn token_text(&self, token: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(token)).into_owned()
    }

    /// The bytes of a token; none if the vocabulary does not name it.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }
}
