//! The fields of a JSON request, one by one: of the right type, in range, and named where they are not.
//!
//! Absent and `null` are the same. What nobody asks for is ignored, as clients send much that is for others; what would
//! change the answer and is not supported is to be [refused](Fields::refuse).

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// A JSON object of a request.
#[derive(Clone, Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Where it is in the request, ending in a dot unless empty.
    path: String,
}

/// What many fields may be.
#[derive(Clone, Debug)]
pub enum TextOrParts {
    /// A string.
    Text(String),
    /// A list of objects.
    Parts(Vec<Fields>),
}

type Found<T> = Result<Option<T>, ApiError>;

impl Fields {
    /// The whole request.
    ///
    /// # Errors
    /// If it is no object.
    pub fn of_request(value: Value) -> Result<Fields, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields { map, path: String::new() }),
            _ => Err(ApiError::new(axum::http::StatusCode::BAD_REQUEST, "the body must be a JSON object")),
        }
    }

    fn within(value: Value, path: &str) -> Result<Fields, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields { map, path: format!("{path}.") }),
            other => Err(wrong(path, "an object", &other)),
        }
    }

    /// The full name of a field, for errors.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// An error about a field.
    pub fn error(&self, field: &str, message: impl std::fmt::Display) -> ApiError {
        let name = self.name(field);
        let message = format!("{name}: {message}");
        ApiError::field(name, message)
    }

    /// Whatever it is.
    pub fn value(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// What is required.
    ///
    /// # Errors
    /// If it is not there.
    pub fn required<T>(&self, field: &str, found: Option<T>) -> Result<T, ApiError> {
        found.ok_or_else(|| self.error(field, "this field is required"))
    }

    fn typed<T>(&mut self, field: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Found<T> {
        let Some(value) = self.value(field) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| wrong(&self.name(field), expected, &value))
    }

    /// A text.
    ///
    /// # Errors
    /// If it is something else.
    pub fn string(&mut self, field: &str) -> Found<String> {
        self.typed(field, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// True or false.
    ///
    /// # Errors
    /// If it is something else.
    pub fn bool(&mut self, field: &str) -> Found<bool> {
        self.typed(field, "true or false", Value::as_bool)
    }

    /// A number in a range.
    ///
    /// # Errors
    /// If it is something else.
    pub fn number(&mut self, field: &str, range: RangeInclusive<f64>) -> Found<f32> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let read = |value: &Value| value.as_f64().filter(|number| range.contains(number)).map(|x| x as f32);
        self.typed(field, &expected, read)
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// If it is something else.
    pub fn integer(&mut self, field: &str, range: RangeInclusive<i64>) -> Found<i64> {
        let expected = match *range.end() {
            i64::MAX => format!("a whole number, at least {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        // Some clients write whole numbers as 1.0.
        let whole = |value: &Value| {
            value
                .as_i64()
                .or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e15).map(|x| x as i64))
        };
        self.typed(field, &expected, |value| whole(value).filter(|number| range.contains(number)))
    }

    /// A count in a range.
    ///
    /// # Errors
    /// If it is something else.
    pub fn count(&mut self, field: &str, range: RangeInclusive<usize>) -> Found<usize> {
        let end = i64::try_from(*range.end()).unwrap_or(i64::MAX);
        let number = self.integer(field, *range.start() as i64..=end)?;
        Ok(number.map(|number| number as usize))
    }

    /// A text or several.
    ///
    /// # Errors
    /// If it is something else, or more than `most`.
    pub fn strings(&mut self, field: &str, most: usize) -> Found<Vec<String>> {
        let expected = format!("a string, or a list of at most {most}");
        self.typed(field, &expected, |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) if list.len() <= most => {
                list.iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        })
    }

    /// An object.
    ///
    /// # Errors
    /// If it is something else.
    pub fn object(&mut self, field: &str) -> Found<Fields> {
        let name = self.name(field);
        self.value(field).map(|value| Fields::within(value, &name)).transpose()
    }

    /// A list of objects.
    ///
    /// # Errors
    /// If it is something else.
    pub fn objects(&mut self, field: &str) -> Found<Vec<Fields>> {
        let name = self.name(field);
        match self.value(field) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                let item = |(idx, item)| Fields::within(item, &format!("{name}[{idx}]"));
                list.into_iter().enumerate().map(item).collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(wrong(&name, "a list of objects", &other)),
        }
    }

    /// A text, or a list of objects.
    ///
    /// # Errors
    /// If it is something else.
    pub fn text_or_parts(&mut self, field: &str) -> Found<TextOrParts> {
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(_)) => Ok(self.string(field)?.map(TextOrParts::Text)),
            Some(Value::Array(_)) => Ok(self.objects(field)?.map(TextOrParts::Parts)),
            Some(other) => Err(wrong(&self.name(field), "a string or a list of parts", other)),
        }
    }

    /// A field under another name, unless there is one of that name.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.map.remove(from) {
            self.map.entry(to).or_insert(value);
        }
    }

    /// Forgets a field that says this.
    pub fn drop_if(&mut self, field: &str, value: &Value) {
        if self.map.get(field) == Some(value) {
            self.map.remove(field);
        }
    }

    /// One of some words.
    ///
    /// # Errors
    /// If it is something else.
    pub fn choice<T: Copy>(&mut self, field: &str, words: &[(&str, T)]) -> Found<T> {
        let listed: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let expected = format!("one of {}", listed.join(", "));
        self.typed(field, &expected, |value| {
            words.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, meaning)| *meaning)
        })
    }

    /// Everything that is left, as JSON.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// Refuses fields that would change the answer and are not supported. `false`, `0` and what is empty ask for nothing.
    ///
    /// # Errors
    /// If one of them asks for something.
    pub fn refuse(&mut self, fields: &[&str]) -> Result<(), ApiError> {
        for field in fields {
            let asks = match self.value(field) {
                None | Some(Value::Bool(false)) => false,
                Some(Value::String(text)) => !text.is_empty(),
                Some(Value::Array(list)) => !list.is_empty(),
                Some(Value::Object(map)) => !map.is_empty(),
                Some(Value::Number(number)) => number.as_f64() != Some(0.0),
                Some(_) => true,
            };
            if asks {
                return Err(self.error(field, "this is not supported; leave it out").code("unsupported"));
            }
        }
        Ok(())
    }
}

fn wrong(name: &str, expected: &str, found: &Value) -> ApiError {
    let mut shown = found.to_string();
    if shown.len() > 60 {
        let cut = (0..=60).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
        shown.truncate(cut);
        shown.push_str("...");
    }
    ApiError::field(name, format!("{name}: this must be {expected}, not {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::of_request(value).unwrap()
    }

    fn param<T: std::fmt::Debug>(found: Result<T, ApiError>) -> String {
        let error = found.unwrap_err();
        let param = error.param.unwrap();
        assert!(error.message.starts_with(&param), "{}", error.message);
        param
    }

    #[test]
    fn wrong_fields_are_named() {
        assert!(Fields::of_request(json!([])).is_err());
        let mut request = fields(json!({
            "t": "warm", "n": 1.5, "big": 11, "s": 1, "stop": ["a", 2], "b": "true", "o": [],
            "list": [{ "in": { "x": "long ".repeat(100) } }, 3], "word": "maybe",
        }));
        assert_eq!(param(request.number("t", 0.0..=2.0)), "t");
        assert_eq!(param(request.integer("n", 1..=3)), "n");
        assert_eq!(param(request.count("big", 1..=10)), "big");
        assert_eq!(param(request.string("s")), "s");
        assert_eq!(param(request.strings("stop", 4)), "stop");
        assert_eq!(param(request.bool("b")), "b");
        assert_eq!(param(request.object("o")), "o");
        assert_eq!(param(request.clone().objects("list")), "list[1]");
        assert_eq!(param(request.choice("word", &[("yes", 1), ("no", 0)])), "word");
        let missing: Option<i32> = None;
        assert_eq!(param(request.required("model", missing)), "model");
        let mut inner = fields(json!({ "list": [{ "in": { "x": "é".repeat(100) } }] }));
        let mut inner = inner.objects("list").unwrap().unwrap().remove(0).object("in").unwrap().unwrap();
        let error = inner.number("x", 0.0..=1.0).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("list[0].in.x"));
        assert!(error.message.len() < 150, "{}", error.message);
    }

    #[test]
    fn right_fields_are_taken_once_and_null_is_nothing() {
        let mut request = fields(json!({ "t": 0.5, "n": 2.0, "stop": "x", "none": null }));
        assert_eq!(request.number("t", 0.0..=2.0), Ok(Some(0.5)));
        assert_eq!(request.number("t", 0.0..=2.0), Ok(None));
        assert_eq!(request.count("n", 1..=8), Ok(Some(2)));
        assert_eq!(request.strings("stop", 4), Ok(Some(vec!["x".to_owned()])));
        assert_eq!(request.string("none"), Ok(None));
    }

    #[test]
    fn what_is_not_supported_is_refused_if_it_asks_for_something() {
        let mut request = fields(json!({ "a": null, "b": false, "c": [], "d": 0, "e": "", "f": {} }));
        assert_eq!(request.refuse(&["a", "b", "c", "d", "e", "f", "g"]), Ok(()));
        for value in [json!(true), json!([1]), json!(2), json!("x"), json!({ "x": 1 })] {
            assert_eq!(param(fields(json!({ "audio": value })).refuse(&["audio"])), "audio");
        }
    }
}
