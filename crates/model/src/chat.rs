//! Chat templates: the Jinja program in a model file that writes a conversation as the text the model was trained on.
//!
//! `minijinja` runs it, with what Hugging Face's `apply_chat_template` adds to Jinja: blocks trimmed of the white
//! space around them, Python's string and dict methods, `raise_exception`, `strftime_now`, a `tojson` that writes
//! like Python's `json.dumps`, `break` and `continue`, and `{% generation %}` marks.
//!
//! A template comes with the model file, from anyone. It sees the conversation and nothing else, and every rendering
//! has a budget of fuel, which bounds its steps and the bytes it makes, a limit of recursion, and a thread of its own
//! with a stack that is enough for the deepest value which that fuel can make. One thing `minijinja` 3.1 does not
//! charge for: printing a list that holds itself many times over (`[x, x]`, again and again); a hostile template can
//! hang its caller by it.

use std::error::Error;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, context};
use serde::Serialize;

use crate::tokenizer::Tokenizer;

/// Fuel for a rendering, whatever the conversation: 60 thousand steps, or 4 MB of text; published templates take less
/// than a tenth.
const FUEL_BASE: u64 = 60_000;

/// Bytes of the conversation for one more unit of fuel, which pays for 64 bytes: so templates may copy, split and
/// compare each message some thirty times.
const BYTES_PER_FUEL: u64 = 2;

/// The most fuel; enough for conversations of 2 MB, longer than any context.
const FUEL_MAX: u64 = 1_000_000;

/// Stack for each unit of fuel, bytes. A value that a template nests ever deeper is printed and freed recursively,
/// which `minijinja` does not limit. A level takes four units of fuel to make and, measured, 0.4 kB to print.
const STACK_BYTES_PER_FUEL: u64 = 512;

/// Stack for everything else, bytes.
const STACK_BYTES_BASE: u64 = 8 << 20;

/// How deep macros and nested loops may go.
const RECURSION_LIMIT: usize = 100;

/// The longest template that is compiled, bytes; the longest published one has less than a tenth.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// The name under which the template is compiled; errors mention it.
const NAME: &str = "chat template";

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// "system", "user", "assistant", "tool", or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Further fields that the template may look for, such as `tool_calls` or `name`.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), extra: serde_json::Map::new() }
    }

    /// The message with all its texts, but not its role, [guarded](Tokenizer::guard): it cannot forge another.
    pub fn guarded(&self, tokenizer: &Tokenizer) -> Message {
        let extra = self.extra.iter().map(|(name, value)| (name.clone(), guarded(value, tokenizer)));
        Message {
            role: self.role.clone(),
            content: tokenizer.guard(&self.content).into_owned(),
            extra: extra.collect(),
        }
    }
}

/// A value with all its texts [guarded](Tokenizer::guard), and the names in it: tools for a template, say.
pub fn guarded(value: &serde_json::Value, tokenizer: &Tokenizer) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => tokenizer.guard(text).into_owned().into(),
        Value::Array(values) => values.iter().map(|value| guarded(value, tokenizer)).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                (tokenizer.guard(name).into_owned(), guarded(value, tokenizer))
            };
            Value::Object(fields.iter().map(field).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Whether the text goes on to where the model's answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// Ends with the opening of the assistant's turn.
    Add,
    /// Ends with the last message.
    Omit,
}

/// What a template is told besides the messages.
#[derive(Clone, Copy, Debug)]
pub struct ChatOptions<'a> {
    /// Whether to open the assistant's turn.
    pub generation_prompt: GenerationPrompt,
    /// Text of the beginning-of-text token; empty if there is none.
    pub bos_token: &'a str,
    /// Text of the end-of-text token; empty if there is none.
    pub eos_token: &'a str,
    /// Descriptions of the tools that the model may call, in JSON schema.
    pub tools: Option<&'a serde_json::Value>,
    /// Further variables that the template may look for, such as `enable_thinking`.
    pub variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// The time that `strftime_now` writes: seconds since 1970-01-01 00:00, in the reader's time zone.
    pub now_s: i64,
}

impl Default for ChatOptions<'_> {
    fn default() -> Self {
        ChatOptions {
            generation_prompt: GenerationPrompt::Add,
            bos_token: "",
            eos_token: "",
            tools: None,
            variables: None,
            now_s: 0,
        }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The formats of [`ChatTemplate::builtin`].
    pub const BUILTIN_NAMES: [&str; 4] = ["chatml", "llama3", "gemma", "mistral"];

    /// Compiles a template.
    ///
    /// # Errors
    /// If it is too long or no valid Jinja.
    pub fn new(source: &str) -> Result<ChatTemplate, ChatError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatError::TooLong { len_bytes: source.len() });
        }
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(ChatError::Syntax)?);
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_template_owned(NAME, replace_generation_tags(source)).map_err(ChatError::Syntax)?;
        Ok(ChatTemplate { source: source.to_owned(), environment })
    }

    /// A well-known format, for models whose file has no template. `None` if the name is none of
    /// [`ChatTemplate::BUILTIN_NAMES`].
    pub fn builtin(name: &str) -> Option<ChatTemplate> {
        let source = match name {
            "chatml" => include_str!("chat/chatml.jinja"),
            "llama3" => include_str!("chat/llama3.jinja"),
            "gemma" => include_str!("chat/gemma.jinja"),
            "mistral" => include_str!("chat/mistral.jinja"),
            _ => return None,
        };
        Some(ChatTemplate::new(source).expect("the tests compile every built-in template"))
    }

    /// What it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes the conversation as the model expects it.
    ///
    /// The text holds control tokens, so it is encoded with
    /// [`Tokenizer::encode_chat`](crate::tokenizer::Tokenizer::encode_chat).
    ///
    /// # Errors
    /// If the template refuses the conversation, fails, or takes more than its budget of time and memory.
    pub fn apply(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        let messages = serde_json::to_value(messages).map_err(ChatError::Conversation)?;
        let variables = options.variables.map_or(0, |variables| variables.values().map(json_bytes).sum());
        let input_bytes = json_bytes(&messages) + options.tools.map_or(0, json_bytes) + variables;
        let fuel = FUEL_MAX.min(FUEL_BASE + input_bytes as u64 / BYTES_PER_FUEL);
        let stack_bytes = STACK_BYTES_BASE + fuel * STACK_BYTES_PER_FUEL;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("chat template".into())
                .stack_size(usize::try_from(stack_bytes).unwrap_or(usize::MAX))
                .spawn_scoped(scope, || self.render(&messages, options, fuel))
                .map_err(ChatError::Thread)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn render(
        &self,
        messages: &serde_json::Value,
        options: &ChatOptions,
        fuel: u64,
    ) -> Result<String, ChatError> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let now_s = options.now_s;
        environment.add_function("strftime_now", move |format: &str| strftime(now_s, format));
        let context = context! {
            messages => Serde(messages),
            tools => options.tools.map(Serde),
            documents => (),
            add_generation_prompt => options.generation_prompt == GenerationPrompt::Add,
            bos_token => options.bos_token,
            eos_token => options.eos_token,
            ..options.variables.map_or(Value::UNDEFINED, |variables| Serde(variables).into())
        };
        let template = environment.get_template(NAME).map_err(ChatError::Syntax)?;
        template.render(context).map_err(ChatError::from_render)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source_bytes", &self.source.len()).finish_non_exhaustive()
    }
}

/// Bytes that a value has as JSON.
fn json_bytes(value: &serde_json::Value) -> usize {
    value.to_string().len()
}

/// Hugging Face's `{% generation %}` marks the assistant's words for training and does nothing here, so it becomes a
/// block that does nothing: `{% with %}`, which keeps a mark's effect on white space and on the scope of variables.
fn replace_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        let name_start = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let (lead, name) = tag.split_at(name_start);
        out.push_str(lead);
        let name_len = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        out.push_str(match &name[..name_len] {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        });
        rest = &name[name_len..];
    }
    out.push_str(rest);
    out
}

/// What `raise_exception` was called with; the source of the error by which it leaves the template.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Raised {}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(invalid("raise_exception").with_source(Raised(message)))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, detail)
}

/// `json.dumps(value, ensure_ascii=False, indent, separators, sort_keys)`.
fn tojson(
    state: &State,
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let indent = indent.or(options.get::<Option<usize>>("indent")?);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(invalid("tojson with ensure_ascii=true is not supported"));
    }
    options.assert_all_used()?;
    let [between_items, after_key] = match separators {
        Some(separators) => separators.try_into().map_err(|_| invalid("tojson takes two separators"))?,
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(String::from),
    };
    let mut writer = JsonWriter { state, indent, sort_keys, between_items, after_key, out: String::new() };
    writer.write(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter<'a> {
    state: &'a State<'a, 'a>,
    indent: Option<usize>,
    sort_keys: bool,
    between_items: String,
    after_key: String,
    out: String,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), minijinja::Error> {
        // Small values can refer to others many times over, or be nested without end.
        self.state.consume_fuel(1)?;
        if depth > RECURSION_LIMIT {
            return Err(invalid("tojson of a value nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.write_str(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut is_empty = true;
                for item in value.try_iter()? {
                    self.begin_item(is_empty, depth + 1)?;
                    self.write(&item, depth + 1)?;
                    is_empty = false;
                }
                self.end(']', is_empty, depth)?;
            }
            ValueKind::Map => {
                self.out.push('{');
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                for (key_idx, key) in keys.iter().enumerate() {
                    self.begin_item(key_idx == 0, depth + 1)?;
                    self.write_str(&key.to_string())?;
                    self.out.push_str(&self.after_key);
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.end('}', keys.is_empty(), depth)?;
            }
            kind => return Err(invalid(format!("tojson of a value that is {kind}"))),
        }
        Ok(())
    }

    fn write_str(&mut self, text: &str) -> Result<(), minijinja::Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        // A JSON string is written alike by Python and serde_json.
        self.out.push_str(&serde_json::Value::from(text).to_string());
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, depth: usize) -> Result<(), minijinja::Error> {
        if !is_first {
            self.state.consume_fuel(self.between_items.len() as u64 / 64)?;
            self.out.push_str(&self.between_items);
        }
        self.new_line(depth)
    }

    fn end(&mut self, bracket: char, is_empty: bool, depth: usize) -> Result<(), minijinja::Error> {
        if !is_empty {
            self.new_line(depth)?;
        }
        self.out.push(bracket);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) -> Result<(), minijinja::Error> {
        if let Some(indent) = self.indent {
            let n_spaces = indent.saturating_mul(depth);
            self.state.consume_fuel(n_spaces as u64 / 64)?;
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', n_spaces));
        }
        Ok(())
    }
}

/// A time as RFC 3339 writes it, `2026-11-24T09:30:00Z`. Seconds since 1970-01-01 00:00 UTC.
pub fn rfc3339(time_s: i64) -> String {
    strftime(time_s, "%FT%TZ").expect("its fields are known")
}

/// A day as templates of Llama 3 write it, `24 Nov 2026`. Seconds since 1970-01-01 00:00, in the reader's time zone.
pub fn day(time_s: i64) -> String {
    strftime(time_s, "%d %b %Y").expect("its fields are known")
}

/// `datetime.strftime` for the fields that templates use; others are refused by name.
fn strftime(time_s: i64, format: &str) -> Result<String, minijinja::Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAYS: [&str; 7] =
        ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second_of_day) = (time_s.div_euclid(86_400), time_s.rem_euclid(86_400));
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let (year, month, day) = civil_from_days(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year.rem_euclid(100)),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('e') => out += &format!("{day:2}"),
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('M') => out += &format!("{minute:02}"),
            Some('S') => out += &format!("{second:02}"),
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => out.push('%'),
            other => {
                let field: String = other.into_iter().collect();
                return Err(invalid(format!("strftime_now with %{field} is not supported")));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counted from 1 March of the year 0, so that a leap day is the last of its year: 400 years are 146,097 days, and
/// five months from March on are 153 days.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_TO_1970: i64 = 719_468;
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    // Take away the leap days before this one; the last day of 4 and of 400 years would otherwise begin a new year.
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Why a chat template could not be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is longer than any honest one.
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The template is no valid Jinja.
    Syntax(minijinja::Error),
    /// The template refused the conversation with `raise_exception`.
    Refused(String),
    /// The template used up its budget of steps and memory.
    OutOfFuel(minijinja::Error),
    /// The template failed.
    Render(minijinja::Error),
    /// The messages could not be handed to the template.
    Conversation(serde_json::Error),
    /// The template's thread could not be started.
    Thread(std::io::Error),
}

impl ChatError {
    fn from_render(error: minijinja::Error) -> ChatError {
        if error.kind() == ErrorKind::OutOfFuel {
            return ChatError::OutOfFuel(error);
        }
        let mut source: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return ChatError::Refused(message.clone());
            }
            source = cause.source();
        }
        ChatError::Render(error)
    }
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len_bytes } => write!(
                f,
                "the chat template has {len_bytes} bytes, more than {MAX_TEMPLATE_BYTES}; get an intact model file"
            ),
            Self::Syntax(_) => {
                write!(f, "the chat template cannot be read; choose one of {}", builtin_names())
            }
            Self::Refused(message) => {
                write!(
                    f,
                    "the model's chat template refuses this conversation: {message}; change its messages"
                )
            }
            Self::OutOfFuel(_) => {
                write!(f, "the chat template takes too long; choose one of {}", builtin_names())
            }
            Self::Render(_) => {
                write!(f, "the chat template failed; choose one of {}", builtin_names())
            }
            Self::Conversation(_) => write!(f, "the messages cannot be written as JSON; change them"),
            Self::Thread(_) => write!(f, "no thread for the chat template; free some memory and try again"),
        }
    }
}

fn builtin_names() -> String {
    ChatTemplate::BUILTIN_NAMES.join(", ")
}

impl Error for ChatError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Syntax(error) | Self::OutOfFuel(error) | Self::Render(error) => Some(error),
            Self::Conversation(error) => Some(error),
            Self::Thread(error) => Some(error),
            Self::TooLong { .. } | Self::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(source: &str) -> Result<String, ChatError> {
        ChatTemplate::new(source)?.apply(&[Message::new("user", "Hi")], &ChatOptions::default())
    }

    fn render_error(source: &str) -> String {
        match apply(source) {
            Err(ChatError::Render(error) | ChatError::Syntax(error)) => error.to_string(),
            other => panic!("{source}: {other:?}"),
        }
    }

    #[test]
    fn every_builtin_compiles_and_writes() {
        for name in ChatTemplate::BUILTIN_NAMES {
            let template = ChatTemplate::builtin(name).unwrap();
            let text = template.apply(&[Message::new("user", "Hi")], &ChatOptions::default()).unwrap();
            assert!(text.contains("Hi"), "{name}: {text}");
        }
        assert!(ChatTemplate::builtin("none").is_none());
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        assert!(render_error("\n{% for %}").contains("chat template:2"));
        assert!(render_error("{{ messages | nofilter }}").contains("nofilter"));
        assert!(render_error("a\nb{{ 1 + [] }}").contains("chat template:2"));
        assert!(render_error("{{ strftime_now('%Q') }}").contains("%Q"));
        assert!(render_error("{{ missing | tojson }}").contains("undefined"));
        assert!(render_error("{% include 'other' %}").contains("include"));
    }

    #[test]
    fn a_refusal_is_told_in_the_templates_words() {
        let nested = "{% macro m() %}{{ raise_exception('no \"system\"') }}{% endmacro %}{{ m() }}";
        for source in ["{{ raise_exception('no \"system\"') }}", nested] {
            assert!(matches!(apply(source), Err(ChatError::Refused(message)) if message == "no \"system\""));
        }
    }

    #[test]
    fn templates_that_run_or_grow_without_end_are_stopped() {
        let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        let doubling =
            "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}";
        let repeated = "{{ 'x' * 99999999 }}";
        let shared =
            "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
        let to_json = format!("{shared}{{{{ n.x | tojson }}}}");
        let indented = "{{ [1] | tojson(indent=999999999999) }}";
        for source in [loops, recursion, doubling, repeated, &to_json, indented] {
            let result = apply(source);
            assert!(
                matches!(result, Err(ChatError::OutOfFuel(_) | ChatError::Render(_))),
                "{source}: {result:?}"
            );
        }
    }

    #[test]
    fn values_and_templates_nested_without_end_are_stopped() {
        let nest =
            "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}";
        for end in ["", "{{ n.x }}", "{{ n.x | tojson }}", "{{ n.x == n.x }}", "{{ n.x | string | length }}"]
        {
            // What comes of it is minijinja's affair, as long as it comes back.
            let _ = apply(&format!("{nest}{end}"));
        }
        assert!(apply(&format!("{}{{{{ 1 }}}}", "{% if true %}".repeat(50_000))).is_err());
        assert!(apply(&format!("{{{{ {} }}}}", "(".repeat(50_000))).is_err());
        assert!(matches!(ChatTemplate::new(&" ".repeat(2 << 20)), Err(ChatError::TooLong { .. })));
    }

    #[test]
    fn a_long_conversation_has_fuel_enough() {
        let long = "word ".repeat(20_000);
        let messages: Vec<Message> =
            (0..20).map(|i| Message::new(["user", "assistant"][i % 2], &long)).collect();
        for name in ChatTemplate::BUILTIN_NAMES {
            let text =
                ChatTemplate::builtin(name).unwrap().apply(&messages, &ChatOptions::default()).unwrap();
            assert!(text.len() > 20 * (long.len() - 1), "{name}");
        }
    }

    #[test]
    fn civil_dates() {
        let date = |days| civil_from_days(days);
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(-1), (1969, 12, 31));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
        // Every day of eight centuries follows the one before.
        let mut before = date(-146_097);
        for days in -146_096..=146_097 {
            let (year, month, day) = date(days);
            let follows = if day > 1 {
                (year, month, day - 1) == before
            } else if month > 1 {
                before.0 == year && before.1 == month - 1 && (28..=31).contains(&before.2)
            } else {
                before == (year - 1, 12, 31)
            };
            assert!(follows, "{before:?} {:?}", (year, month, day));
            before = (year, month, day);
        }
        assert_eq!(date(146_097), (2370, 1, 1));
    }
}
