//! A conversation that is to go on, in nobody's dialect: what the chat endpoints of all APIs come down to.

use edgeward_model::chat::{GenerationPrompt, Message};
use edgeward_model::tokenizer::Tokenizer;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::{Fields, TextOrParts};
use crate::routes::sampling::ResponseFormat;
use crate::scheduler::Request;
use crate::text::ModelText;
use crate::tools::{ToolStream, ToolSyntax, Toolbox};

/// Messages of a conversation, at most.
pub const MAX_MESSAGES: usize = 4096;

/// What has been said, and what may be answered.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// At least one message.
    pub messages: Vec<Message>,
    /// Tools that may be called.
    pub toolbox: Toolbox,
    /// What form an answer is to have, if it is no call.
    pub format: ResponseFormat,
    /// Further variables for the template.
    pub variables: Option<Map<String, Value>>,
    /// How the text ends.
    pub ending: Ending,
}

/// How the text of a conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// For the model to go on: in its last message if that is its own, else where its answer begins.
    #[default]
    Open,
    /// Where a new answer begins, whoever has spoken last.
    NewTurn,
    /// With the last message.
    Closed,
}

impl Conversation {
    /// Fills in the prompt and the grammar of `request`; how calls are to be read from its answers. Takes a while.
    pub fn prepare(&self, text: &ModelText, mut request: Request) -> Result<(Request, ToolStream), ApiError> {
        let (rendered, syntax) = self.render(text)?;
        request.prompt = text.encode_chat(&rendered)?;
        request.grammar = match syntax {
            Some(syntax) => {
                if self.format != ResponseFormat::Text {
                    let message = "response_format: this cannot be had together with tools";
                    return Err(ApiError::field("response_format", message).code("unsupported"));
                }
                text.maybe_grammar("tools", |grammars| self.toolbox.grammar(syntax, grammars))?
            }
            None => self.format.grammar(text)?,
        };
        Ok((request, ToolStream::new(&self.toolbox, syntax)))
    }

    /// Tokens of the conversation.
    pub fn count(&self, text: &ModelText) -> Result<usize, ApiError> {
        Ok(text.encode_chat(&self.render(text)?.0)?.len())
    }

    /// The conversation as the model's template writes it, for reading: what messages spell stands there as it was.
    ///
    /// # Errors
    /// If the model has no template, or the template refuses the conversation.
    pub fn written(&self, text: &ModelText) -> Result<String, ApiError> {
        Ok(Tokenizer::unguard(&self.render(text)?.0))
    }

    fn render(&self, text: &ModelText) -> Result<(String, Option<ToolSyntax>), ApiError> {
        let (messages, begun) = self.whole_and_begun();
        let (mut rendered, syntax) = self.render_whole(messages, text)?;
        rendered.push_str(&text.tokenizer().guard(begun));
        Ok((rendered, syntax))
    }

    /// The messages that are whole, and the words of the one that the model is to go on with, if there is one.
    fn whole_and_begun(&self) -> (&[Message], &str) {
        match self.messages.split_last() {
            // Templates begin an answer where there was a question.
            Some((last, before))
                if self.ending == Ending::Open && !before.is_empty() && is_only_said(last) =>
            {
                (before, &last.content)
            }
            _ => (&self.messages, ""),
        }
    }

    fn render_whole(
        &self,
        messages: &[Message],
        text: &ModelText,
    ) -> Result<(String, Option<ToolSyntax>), ApiError> {
        let opening = match self.ending {
            Ending::Closed => GenerationPrompt::Omit,
            Ending::Open | Ending::NewTurn => GenerationPrompt::Add,
        };
        let variables = self.variables.as_ref();
        let plain = |messages: &[Message]| text.render(messages, None, variables, opening);
        if !self.toolbox.is_open() {
            return Ok((plain(messages)?, None));
        }
        let tools = self.toolbox.describe();
        let with_tools = text.render(messages, Some(&tools), variables, opening);
        let without = plain(messages);
        match (with_tools, without) {
            (Ok(with_tools), Ok(without)) => match Toolbox::syntax(&with_tools, &without) {
                Some(syntax) => Ok((with_tools, Some(syntax))),
                None => Ok((plain(&self.toolbox.explain(messages))?, Some(ToolSyntax::Hermes))),
            },
            // It may refuse a conversation without tools in which tools were called.
            (Ok(with_tools), Err(_)) => {
                let syntax = Toolbox::syntax(&with_tools, "").expect("a text with something in it");
                Ok((with_tools, Some(syntax)))
            }
            // It knows no messages of tools.
            (Err(_), _) => Ok((plain(&self.toolbox.explain(messages))?, Some(ToolSyntax::Hermes))),
        }
    }
}

/// Whether a message is the model's own and has nothing but words, which it can go on with.
pub fn is_only_said(message: &Message) -> bool {
    message.role == "assistant" && message.extra.is_empty()
}

/// A text, or a list of parts that are texts, in the field `content`.
pub fn content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    texts(fields, "content")
}

/// A text, or a list of parts that are texts.
pub fn texts(fields: &mut Fields, field: &str) -> Result<Option<String>, ApiError> {
    match fields.text_or_parts(field)? {
        None => Ok(None),
        Some(TextOrParts::Text(text)) => Ok(Some(text)),
        Some(TextOrParts::Parts(parts)) => {
            let mut text = String::new();
            for mut part in parts {
                let kinds = [("text", ()), ("input_text", ()), ("output_text", ())];
                let kind = part.choice("type", &kinds)?;
                part.required("type", kind)?;
                let piece = part.string("text")?;
                text.push_str(&part.required("text", piece)?);
            }
            Ok(Some(text))
        }
    }
}
