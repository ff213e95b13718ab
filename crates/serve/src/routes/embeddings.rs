//! `POST /v1/embeddings` and `/v1/rerank`: what a model makes of texts as wholes, and which are near to which.
//!
//! Of an encoder, an embedding is what sentence-transformers makes of a text with it. Of a model that was made to talk it
//! is the mean of the last layer's normed states over the text's tokens, of length 1; such models are no match for ones
//! that were made for this. A cross-encoder sees query and document together, and its scores are sentence-transformers'.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial};
use serde_json::{Value, json};

use super::prompts::Prompt;
use super::{Reply, blocking, json, read};
use crate::Server;
use crate::encoder::Text;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::gate::Call;
use crate::model::{ModelKind, ServedModel};
use crate::scheduler::{self, Task};

/// Texts of a request, at most.
pub const MAX_INPUTS: usize = 2048;

/// Embeds texts.
pub async fn embeddings(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.embedder(fields.string("model")?.as_deref())?;
    let wants_base64 =
        fields.choice("encoding_format", &[("float", false), ("base64", true)])?.unwrap_or(false);
    let dimensions = fields.count("dimensions", 1..=usize::MAX)?;
    if dimensions.is_some_and(|dimensions| dimensions != model.info.hidden_dim) {
        let message = format!("this model's embeddings have {} dimensions", model.info.hidden_dim);
        return Err(fields.error("dimensions", message));
    }
    let inputs = inputs(&mut fields, &model).await?;
    let (vectors, n_tokens) = embed(&server, &model, inputs, &call).await?;
    let embedding = |vector: &Vec<f32>| match wants_base64 {
        true => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Value::from(STANDARD.encode(bytes))
        }
        false => json!(vector),
    };
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(idx, vector)| json!({ "object": "embedding", "index": idx, "embedding": embedding(vector) }))
        .collect();
    Ok(json(&json!({
        "object": "list",
        "data": data,
        "model": model.info.name,
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    })))
}

/// Orders documents by how near they are to a query: by a cross-encoder's scores, or else by the cosine of embeddings.
pub async fn rerank(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.ranker(fields.string("model")?.as_deref())?;
    let query = fields.string("query")?;
    let query = fields.required("query", query)?;
    // In the words of Hugging Face's text-embeddings-inference; the answer then has its shape.
    let texts = fields.strings("texts", MAX_INPUTS - 1)?;
    let names_scores = texts.is_some();
    let documents = match texts {
        Some(texts) => Some(texts),
        None => fields.strings("documents", MAX_INPUTS - 1)?,
    };
    let documents = fields.required("documents", documents)?;
    if documents.is_empty() {
        return Err(fields.error("documents", "this must have at least one text"));
    }
    let top_n = fields.count("top_n", 1..=usize::MAX)?.unwrap_or(documents.len());
    let returns_documents = fields.bool("return_documents")?.unwrap_or(false);
    let returns_texts = fields.bool("return_text")?.unwrap_or(false);
    let (scores, n_tokens) = match model.info.kind {
        ModelKind::Ranker => scores(&server, &model, query, documents.clone(), &call).await?,
        ModelKind::Generator | ModelKind::Encoder => {
            cosines(&server, &model, query, &documents, &call).await?
        }
    };
    let mut ranked: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let results: Vec<Value> = ranked
        .into_iter()
        .take(top_n)
        .map(|(idx, score)| {
            let document = &documents[idx];
            let mut result = match names_scores {
                true => json!({ "index": idx, "score": score }),
                false => json!({ "index": idx, "relevance_score": score }),
            };
            if returns_documents {
                result["document"] = json!({ "text": document });
            }
            if returns_texts {
                result["text"] = document.as_str().into();
            }
            result
        })
        .collect();
    if names_scores {
        return Ok(json(&results.into()));
    }
    Ok(json(&json!({
        "model": model.info.name,
        "object": "list",
        "results": results,
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    })))
}

/// How near each document is to the query: the cosine of their vectors. And how many tokens all have.
async fn cosines(
    server: &Server,
    model: &Arc<ServedModel>,
    query: String,
    documents: &[String],
    call: &Call,
) -> Result<(Vec<f64>, usize), ApiError> {
    let texts = [query].into_iter().chain(documents.iter().cloned()).collect();
    let (vectors, n_tokens) = embed_texts(server, model, texts, Overlong::Refused, None, call).await?;
    let (query, rest) = vectors.split_first().expect("the query's is the first");
    let cosine =
        |vector: &Vec<f32>| query.iter().zip(vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    Ok((rest.iter().map(cosine).collect(), n_tokens))
}

/// The same by a model that sees both at once.
async fn scores(
    server: &Server,
    model: &Arc<ServedModel>,
    query: String,
    documents: Vec<String>,
    call: &Call,
) -> Result<(Vec<f64>, usize), ApiError> {
    let text_model = Arc::clone(model);
    let pairs = blocking(move || {
        let query = text_model.text.encode(&query, AddSpecial::Yes)?;
        let pair = |document: &String| {
            let mut tokens = query.clone();
            // The token that begins a text begins the pair, and nothing else.
            tokens.extend_from_slice(
                text_model.text.encode(document, AddSpecial::Yes)?.get(1..).unwrap_or_default(),
            );
            Ok(Text { tokens, n_first: query.len() })
        };
        documents.iter().map(pair).collect::<Result<Vec<_>, ApiError>>()
    })
    .await?;
    let n_tokens = pairs.iter().map(|pair| pair.tokens.len()).sum();
    let scores = model.encode(pairs, Instant::now() + server.max_duration, &call.tally).await?;
    Ok((scores.iter().map(|score| f64::from(score[0])).collect(), n_tokens))
}

/// What is done with a text that is longer than the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlong {
    /// The request is refused.
    Refused,
    /// What is too much is cut off.
    Cut,
}

/// The texts' vectors of length 1, and how many tokens they have; of each at most `max_len`, if it is less than the model takes.
pub async fn embed_texts(
    server: &Server,
    model: &Arc<ServedModel>,
    texts: Vec<String>,
    overlong: Overlong,
    max_len: Option<usize>,
    call: &Call,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let text_model = Arc::clone(model);
    let max_len = max_len.map_or(model.info.context_len, |max_len| max_len.min(model.info.context_len));
    let inputs = blocking(move || {
        let text = &text_model.text;
        let mut inputs =
            texts.iter().map(|input| text.encode(input, AddSpecial::Yes)).collect::<Result<Vec<_>, _>>()?;
        if overlong == Overlong::Cut {
            // What the model wants around a text stays.
            if max_len <= text.encode("", AddSpecial::Yes)?.len() {
                let message = "input exceeds maximum context length and cannot be truncated further";
                return Err(ApiError::field("options.num_ctx", message));
            }
            inputs.iter_mut().for_each(|tokens| cut(tokens, &text_model, max_len));
        }
        Ok(inputs)
    })
    .await?;
    // What is more than the model takes is refused by that.
    if let Some(n_tokens) =
        inputs.iter().map(Vec::len).find(|n| (max_len + 1..=model.info.context_len).contains(n))
    {
        let message =
            format!("input: of {n_tokens} tokens, the input length exceeds the context length of {max_len}");
        return Err(ApiError { overlong: Some((n_tokens, max_len)), ..ApiError::field("input", message) });
    }
    let (mut vectors, n_tokens) = embed(server, model, inputs, call).await?;
    vectors.iter_mut().for_each(|vector| to_unit_length(vector));
    Ok((vectors, n_tokens))
}

/// Makes a text as short as the model wants it. Around texts for an encoder are tokens that stay.
fn cut(tokens: &mut Vec<u32>, model: &ServedModel, max_len: usize) {
    if tokens.len() > max_len {
        let end = tokens[tokens.len() - 1];
        tokens.truncate(max_len);
        if model.info.kind == ModelKind::Encoder {
            tokens[max_len - 1] = end;
        }
    }
}

fn to_unit_length(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

/// The tokens of each text in the field `input`.
pub async fn inputs(fields: &mut Fields, model: &Arc<ServedModel>) -> Result<Vec<Vec<u32>>, ApiError> {
    let inputs = Prompt::read_all(fields, "input", MAX_INPUTS)?;
    let model = Arc::clone(model);
    blocking(move || {
        inputs.iter().map(|input| input.tokens(&model.text, AddSpecial::Yes, ParseSpecial::No)).collect()
    })
    .await
}

/// The vectors of texts, and how many tokens they have. A model that talks gets them one after the other: a long list must
/// not fill the queue that all share.
pub async fn embed(
    server: &Server,
    model: &Arc<ServedModel>,
    inputs: Vec<Vec<u32>>,
    call: &Call,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let n_tokens = inputs.iter().map(Vec::len).sum();
    let deadline = Instant::now() + server.max_duration;
    if model.info.kind == ModelKind::Encoder {
        let texts = inputs.into_iter().map(Text::from).collect();
        return Ok((model.encode(texts, deadline, &call.tally).await?, n_tokens));
    }
    let deadline = Some(deadline);
    let mut vectors = Vec::with_capacity(inputs.len());
    for prompt in inputs {
        let request =
            scheduler::Request { prompt, task: Task::Embed, deadline, ..scheduler::Request::default() };
        let mut state = model.submit(request, &call.tally).await?.embedding().await?;
        to_unit_length(&mut state);
        vectors.push(state);
    }
    Ok((vectors, n_tokens))
}
