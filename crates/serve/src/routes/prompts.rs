//! Texts as the endpoints without turns take them: a string, a list of token ids, or, as llama.cpp's clients have it,
//! both mixed, or an object around a string.

use edgeward_model::tokenizer::{AddSpecial, ControlTokens, ParseSpecial};
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::text::ModelText;

/// A text, in pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Tokens(Vec<u32>),
}

impl Prompt {
    /// What is in `field`: one text, or a list of texts. A list in which there is a number is one text.
    ///
    /// # Errors
    /// If it is missing, something else, or more than `most`.
    pub fn read_all(fields: &mut Fields, field: &str, most: usize) -> Result<Vec<Prompt>, ApiError> {
        let value = fields.value(field);
        let value = fields.required(field, value)?;
        let prompts: Option<Vec<Prompt>> = match &value {
            Value::Array(list) if !list.iter().any(Value::is_number) => {
                list.iter().map(Prompt::read).collect()
            }
            one => Prompt::read(one).map(|prompt| vec![prompt]),
        };
        match prompts {
            Some(prompts) if (1..=most).contains(&prompts.len()) => Ok(prompts),
            Some(_) => Err(fields.error(field, format!("this must be 1 to {most} texts"))),
            None => {
                Err(fields.error(field, "this must be a string, a list of token ids, or a list of these"))
            }
        }
    }

    fn read(value: &Value) -> Option<Prompt> {
        match value {
            Value::String(text) => Some(Prompt(vec![Piece::Text(text.clone())])),
            Value::Array(list) => {
                let mut pieces = Vec::new();
                for value in list {
                    match (value, pieces.last_mut()) {
                        (Value::String(text), _) => pieces.push(Piece::Text(text.clone())),
                        (id, Some(Piece::Tokens(tokens))) => tokens.push(token_id(id)?),
                        (id, _) => pieces.push(Piece::Tokens(vec![token_id(id)?])),
                    }
                }
                (!pieces.is_empty()).then_some(Prompt(pieces))
            }
            Value::Object(map) => match (map.get("prompt_string"), map.get("content"), map.len()) {
                (Some(Value::String(text)), None, 1) => Some(Prompt(vec![Piece::Text(text.clone())])),
                (None, Some(Value::Array(parts)), 1) => {
                    let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                        (Some("text"), Some(text)) => Some(text.to_owned()),
                        _ => None,
                    };
                    parts
                        .iter()
                        .map(text)
                        .collect::<Option<String>>()
                        .map(|text| Prompt(vec![Piece::Text(text)]))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// A text.
    pub fn of_text(text: &str) -> Prompt {
        Prompt(vec![Piece::Text(text.to_owned())])
    }

    /// A token.
    pub fn of_token(id: u32) -> Prompt {
        Prompt(vec![Piece::Tokens(vec![id])])
    }

    /// Its tokens; with `add_special`, those that the model wants around a text besides, if it begins with one.
    ///
    /// # Errors
    /// If a text cannot be encoded.
    pub fn tokens(
        &self,
        text: &ModelText,
        add_special: AddSpecial,
        parse_special: ParseSpecial,
    ) -> Result<Vec<u32>, ApiError> {
        let mut tokens = Vec::new();
        for (idx, piece) in self.0.iter().enumerate() {
            let add_special = if idx == 0 { add_special } else { AddSpecial::No };
            match piece {
                Piece::Text(piece) => tokens.extend(text.encode_with(piece, add_special, parse_special)?),
                Piece::Tokens(ids) => tokens.extend_from_slice(ids),
            }
        }
        Ok(tokens)
    }

    /// Its text.
    ///
    /// # Errors
    /// If a token is unknown.
    pub fn text(&self, text: &ModelText) -> Result<String, ApiError> {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Tokens(tokens) => text
                .tokenizer()
                .decode(tokens, ControlTokens::Hide)
                .map_err(|error| ApiError::field("prompt", error.to_string())),
        };
        self.0.iter().map(piece).collect()
    }
}

/// A token's id in JSON.
pub fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn forms_of_texts() {
        let read = |value: Value| {
            Prompt::read_all(&mut Fields::of_request(json!({ "input": value })).unwrap(), "input", 3)
        };
        let text = |text: &str| Piece::Text(text.into());
        let tokens = |ids: &[u32]| Piece::Tokens(ids.to_vec());
        for (value, pieces) in [
            (json!("a"), vec![vec![text("a")]]),
            (json!([1, 2]), vec![vec![tokens(&[1, 2])]]),
            (json!([1, "a", 2, 3]), vec![vec![tokens(&[1]), text("a"), tokens(&[2, 3])]]),
            (json!(["a", [1, "b"]]), vec![vec![text("a")], vec![tokens(&[1]), text("b")]]),
            (json!({ "prompt_string": "a" }), vec![vec![text("a")]]),
            (
                json!(["b", { "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "c" }] }]),
                vec![vec![text("b")], vec![text("ac")]],
            ),
        ] {
            assert_eq!(read(value), Ok(pieces.into_iter().map(Prompt).collect()));
        }
        for wrong in [
            json!([]),
            json!([[]]),
            json!([-1]),
            json!([1, null]),
            json!(1),
            json!(["a", "b", "c", "d"]),
            json!({ "prompt_string": "a", "multimodal_data": ["x"] }),
            json!({ "content": "a" }),
            json!({ "content": [{ "type": "image_url" }] }),
            json!(null),
        ] {
            assert_eq!(read(wrong).unwrap_err().param.as_deref(), Some("input"));
        }
    }
}
