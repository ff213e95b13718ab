//! Tools that a model may call: how they are told to it, and how its calls are read.
//!
//! Models are taught one of two ways to call: Hermes' (also Qwen's), JSON between `<tool_call>` and `</tool_call>`, and
//! Llama 3's, bare JSON with `parameters`. A template that writes the tools shows which. Models whose template knows
//! none are told Hermes' way in words.
//!
//! If a call is demanded, or a tool is `strict`, a grammar sees to it that calls are as the schemas say; else the model
//! is free, and what looks like a call and is none remains text.

use edgeward_model::chat::Message;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::grammar::{Grammar, GrammarError, GrammarFactory};

/// Tools of a request, at most.
const MAX_TOOLS: usize = 128;
const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Something that the client can do for the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON schema of its arguments, and the field that it came in.
    pub parameters: (Value, String),
    /// Whether arguments must be as the schema says.
    pub is_strict: bool,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// Not at all; the model does not hear of them.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Tools, and whether they are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Toolbox {
    /// All that there are.
    pub tools: Vec<Tool>,
    /// Whether they are called.
    pub choice: ToolChoice,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Its name.
    pub name: String,
    /// A JSON object.
    pub arguments: Value,
}

/// How a model calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolSyntax {
    /// `<tool_call>` around JSON with `arguments`.
    Hermes,
    /// JSON with `parameters`.
    Llama3,
}

impl Tool {
    /// A tool whose `name`, `description`, schema and `strict` are in these fields.
    pub fn read(fields: &mut Fields, schema_field: &str) -> Result<Tool, ApiError> {
        let name = fields.string("name")?;
        let name = fields.required("name", name)?;
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(is_fine) {
            return Err(fields.error("name", "use 1 to 64 letters, digits, '_', '-' and '.'"));
        }
        let parameters = match fields.value(schema_field) {
            None => json!({ "type": "object", "properties": {} }),
            Some(schema @ Value::Object(_)) => schema,
            Some(_) => return Err(fields.error(schema_field, "this must be a JSON schema")),
        };
        Ok(Tool {
            name,
            description: fields.string("description")?,
            parameters: (parameters, fields.name(schema_field)),
            is_strict: fields.bool("strict")?.unwrap_or(false),
        })
    }

    /// As templates expect it, which is as OpenAI writes it.
    fn describe(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".to_owned(), self.name.clone().into());
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), description.clone().into());
        }
        function.insert("parameters".to_owned(), self.parameters.0.clone());
        json!({ "type": "function", "function": function })
    }
}

impl Toolbox {
    /// Checks that the tools and the choice fit each other.
    pub fn new(tools: Vec<Tool>, choice: ToolChoice) -> Result<Toolbox, ApiError> {
        if tools.len() > MAX_TOOLS {
            return Err(ApiError::field("tools", format!("tools: at most {MAX_TOOLS} can be given")));
        }
        if let Some((idx, tool)) = tools
            .iter()
            .enumerate()
            .find(|(idx, tool)| tools[..*idx].iter().any(|other| other.name == tool.name))
        {
            let message = format!("tools[{idx}]: there is another tool called {:?}", tool.name);
            return Err(ApiError::field(format!("tools[{idx}]"), message));
        }
        match &choice {
            ToolChoice::Required if tools.is_empty() => {
                Err(ApiError::field("tool_choice", "tool_choice: there are no tools to choose from"))
            }
            ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
                Err(ApiError::field("tool_choice", format!("tool_choice: there is no tool called {name:?}")))
            }
            _ => Ok(Toolbox { tools, choice }),
        }
    }

    /// Whether the model hears of tools.
    pub fn is_open(&self) -> bool {
        !self.tools.is_empty() && self.choice != ToolChoice::None
    }

    /// As templates expect them.
    pub fn describe(&self) -> Value {
        self.callable().map(Tool::describe).collect()
    }

    /// Tools that may be called.
    fn callable(&self) -> impl Iterator<Item = &Tool> {
        self.tools.iter().filter(|tool| match &self.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        })
    }

    /// How the model calls, seen from what its template wrote with the tools and without them; `None` if it wrote
    /// nothing about them.
    pub fn syntax(with_tools: &str, without: &str) -> Option<ToolSyntax> {
        if with_tools == without {
            return None;
        }
        Some(if with_tools.contains(OPEN) { ToolSyntax::Hermes } else { ToolSyntax::Llama3 })
    }

    /// The conversation for a model whose template knows no tools: told in words, in the system's message.
    pub fn explain(&self, messages: &[Message]) -> Vec<Message> {
        let described: Vec<String> = self.callable().map(|tool| tool.describe().to_string()).collect();
        let words = format!(
            "You may call functions. Their signatures are between <tools></tools>:\n<tools>\n{}\n</tools>\n\
             To call one, answer with its name and arguments in JSON between {OPEN}{CLOSE}, and nothing else:\n\
             {OPEN}\n{{\"name\": \"...\", \"arguments\": {{...}}}}\n{CLOSE}",
            described.join("\n")
        );
        let mut told: Vec<Message> = messages.iter().map(in_words).collect();
        match told.first_mut().filter(|message| message.role == "system") {
            Some(system) => system.content = format!("{}\n\n{words}", system.content),
            None => told.insert(0, Message::new("system", words)),
        }
        told
    }

    /// The grammar of an answer that may call, if one is needed. Takes a while.
    pub fn grammar(
        &self,
        syntax: ToolSyntax,
        grammars: &GrammarFactory,
    ) -> Result<Option<Grammar>, GrammarError> {
        let must_call = matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_));
        if !must_call && !self.callable().any(|tool| tool.is_strict) {
            return Ok(None);
        }
        // Each schema alone first: in the whole, an error would not say which it is in.
        for tool in self.callable() {
            grammars.json_schema(&tool.parameters.0).map_err(|error| error.within(&tool.name))?;
        }
        let key = syntax.arguments_key();
        let calls: Vec<Value> = self
            .callable()
            .map(|tool| {
                json!({
                    "type": "object",
                    "properties": { "name": { "const": tool.name }, key: tool.parameters.0 },
                    "required": ["name", key],
                    "additionalProperties": false,
                })
            })
            .collect();
        let schema = GrammarFactory::fixed_layout(json!({ "anyOf": calls }))?;
        let call = match syntax {
            ToolSyntax::Hermes => format!("\"{OPEN}\\n\" json \"\\n{CLOSE}\""),
            ToolSyntax::Llama3 => "json".to_owned(),
        };
        let text = match syntax {
            ToolSyntax::Hermes => format!("/(?s:.+)/ & ~/(?s:.*){OPEN}(?s:.*)/"),
            ToolSyntax::Llama3 => "/[^{](?s:.*)/".to_owned(),
        };
        let lark = if must_call {
            format!("start: call\ncall: {call}\njson: %json {schema}\n")
        } else {
            format!("start: TEXT | call\nTEXT: {text}\ncall: {call}\njson: %json {schema}\n")
        };
        grammars.lark(lark).map(Some)
    }
}

/// A message of a conversation with calls, for a template that knows only words.
fn in_words(message: &Message) -> Message {
    let mut content = message.content.clone();
    for call in message.extra.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let call = &call["function"];
        let call = json!({ "name": call["name"], "arguments": call["arguments"] });
        content.push_str(&format!("\n{OPEN}\n{call}\n{CLOSE}"));
    }
    match message.role.as_str() {
        "tool" => Message::new("user", format!("<tool_response>\n{content}\n</tool_response>")),
        role => Message::new(role, content.trim_start_matches('\n')),
    }
}

impl ToolSyntax {
    fn arguments_key(self) -> &'static str {
        match self {
            ToolSyntax::Hermes => "arguments",
            ToolSyntax::Llama3 => "parameters",
        }
    }

    /// What a call begins with.
    fn opening(self) -> &'static str {
        match self {
            ToolSyntax::Hermes => OPEN,
            ToolSyntax::Llama3 => "{",
        }
    }
}

/// Takes calls out of an answer as it comes.
#[derive(Clone, Debug, Default)]
pub struct ToolStream {
    /// How the model calls; `None` if it cannot.
    syntax: Option<ToolSyntax>,
    names: Vec<String>,
    /// What may be a call.
    held: String,
    /// Whether text has been given out.
    has_spoken: bool,
}

impl ToolStream {
    /// For an answer in which these tools may be called in this way.
    pub fn new(toolbox: &Toolbox, syntax: Option<ToolSyntax>) -> ToolStream {
        let names = toolbox.callable().map(|tool| tool.name.clone()).collect();
        ToolStream { syntax, names, ..ToolStream::default() }
    }

    /// More of the answer; what of it is certainly text.
    pub fn push(&mut self, text: &str) -> String {
        let Some(syntax) = self.syntax else { return text.to_owned() };
        self.held.push_str(text);
        let opening = syntax.opening();
        let start = match syntax {
            ToolSyntax::Hermes => self.held.find(opening),
            // A brace within text is a brace.
            ToolSyntax::Llama3 => {
                let is_first = !self.has_spoken && self.held.trim_start().starts_with(opening);
                is_first.then_some(0)
            }
        };
        let n_text = start.unwrap_or_else(|| match syntax {
            ToolSyntax::Llama3 if !self.has_spoken && self.held.trim_start().is_empty() => 0,
            ToolSyntax::Llama3 => self.held.len(),
            ToolSyntax::Hermes => self.held.len() - overlap(&self.held, opening),
        });
        let rest = self.held.split_off(n_text);
        let text = std::mem::replace(&mut self.held, rest);
        self.has_spoken |= !text.is_empty();
        text
    }

    /// The answer is at its end: the rest of its text, and its calls.
    pub fn finish(&mut self) -> (String, Vec<ToolCall>) {
        let held = std::mem::take(&mut self.held);
        let calls = match self.syntax {
            None => None,
            Some(ToolSyntax::Hermes) => self.hermes_calls(&held),
            Some(ToolSyntax::Llama3) => {
                serde_json::from_str(&held).ok().and_then(|call| self.call(&call)).map(|call| vec![call])
            }
        };
        match calls {
            Some(calls) if !calls.is_empty() => (String::new(), calls),
            _ => (held, Vec::new()),
        }
    }

    fn hermes_calls(&self, text: &str) -> Option<Vec<ToolCall>> {
        let pieces = text.split(OPEN).skip(1);
        let call = |piece: &str| {
            // A model may stop before it closes.
            let inner = piece.split(CLOSE).next().unwrap_or_default();
            serde_json::from_str(inner.trim()).ok().and_then(|call| self.call(&call))
        };
        pieces.map(call).collect()
    }

    fn call(&self, call: &Value) -> Option<ToolCall> {
        let name = call["name"].as_str()?;
        let arguments = call.get("arguments").or(call.get("parameters")).cloned().unwrap_or(json!({}));
        let is_call = self.names.iter().any(|known| known == name) && arguments.is_object();
        is_call.then(|| ToolCall { name: name.to_owned(), arguments })
    }
}

/// Bytes of the longest end of `text` that begins `word` without being all of it.
fn overlap(text: &str, word: &str) -> usize {
    (1..word.len()).rev().find(|len| text.ends_with(&word[..*len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolbox() -> Toolbox {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: None,
            parameters: (json!({ "type": "object" }), "p".to_owned()),
            is_strict: false,
        };
        Toolbox::new(vec![tool("add"), tool("now")], ToolChoice::Auto).unwrap()
    }

    /// Text and calls of an answer that comes in pieces of `n` characters.
    fn read(syntax: ToolSyntax, answer: &str, n: usize) -> (String, Vec<ToolCall>) {
        let mut stream = ToolStream::new(&toolbox(), Some(syntax));
        let chars: Vec<char> = answer.chars().collect();
        let mut text = String::new();
        for piece in chars.chunks(n) {
            text.push_str(&stream.push(&piece.iter().collect::<String>()));
        }
        let (rest, calls) = stream.finish();
        (text + &rest, calls)
    }

    #[test]
    fn calls_are_taken_out_of_answers() {
        let add = || ToolCall { name: "add".to_owned(), arguments: json!({ "a": 1 }) };
        let now = || ToolCall { name: "now".to_owned(), arguments: json!({}) };
        for (syntax, answer, text, calls) in [
            (
                ToolSyntax::Hermes,
                "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>",
                "",
                vec![add()],
            ),
            (
                ToolSyntax::Hermes,
                "Well.\n<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>\n<tool_call>{\"name\": \"now\"}",
                "Well.\n",
                vec![add(), now()],
            ),
            (ToolSyntax::Hermes, "1 < 2 and <tool", "1 < 2 and <tool", vec![]),
            (ToolSyntax::Hermes, "<tool_call>no call</tool_call>", "<tool_call>no call</tool_call>", vec![]),
            (ToolSyntax::Hermes, "<tool_call>{\"name\": \"rm\"}", "<tool_call>{\"name\": \"rm\"}", vec![]),
            (ToolSyntax::Llama3, "{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "", vec![add()]),
            (ToolSyntax::Llama3, " {\"name\": \"now\"}", "", vec![now()]),
            (ToolSyntax::Llama3, "{\"colour\": \"red\"}", "{\"colour\": \"red\"}", vec![]),
            (ToolSyntax::Llama3, "It is {x}.", "It is {x}.", vec![]),
        ] {
            for n in [1, 3, 1000] {
                assert_eq!(read(syntax, answer, n), (text.to_owned(), calls.clone()), "{answer} by {n}");
            }
        }
    }

    #[test]
    fn text_that_cannot_be_a_call_is_not_held() {
        let mut stream = ToolStream::new(&toolbox(), Some(ToolSyntax::Hermes));
        assert_eq!(stream.push("a <to"), "a ");
        assert_eq!(stream.push("y>"), "<toy>");
        let mut stream = ToolStream::new(&toolbox(), None);
        assert_eq!(stream.push("<tool_call>"), "<tool_call>");
    }

    #[test]
    fn wrong_toolboxes() {
        let tools = toolbox().tools;
        let param = |tools: Vec<Tool>, choice| Toolbox::new(tools, choice).unwrap_err().param.unwrap();
        assert_eq!(param(Vec::new(), ToolChoice::Required), "tool_choice");
        assert_eq!(param(tools.clone(), ToolChoice::Named("rm".to_owned())), "tool_choice");
        assert_eq!(param([tools.clone(), tools].concat(), ToolChoice::Auto), "tools[2]");
    }

    #[test]
    fn conversations_in_words() {
        let mut call = Message::new("assistant", "");
        call.extra.insert(
            "tool_calls".to_owned(),
            json!([{ "function": { "name": "add", "arguments": { "a": 1 } } }]),
        );
        let told = toolbox().explain(&[Message::new("user", "1?"), call, Message::new("tool", "2")]);
        let roles: Vec<&str> = told.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(told[0].content.contains("\"name\":\"now\""));
        assert!(told[2].content.starts_with("<tool_call>") && told[3].content.contains("<tool_response>\n2"));
    }
}
