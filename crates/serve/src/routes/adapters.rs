//! A model's adapters: `GET` and `POST /lora-adapters` list them and set their strengths, as llama.cpp's server has it, and
//! `POST /admin/adapters/load` and `/unload` bring others while the server runs, where it was started so.
//!
//! No request is dropped or changed: what has begun keeps the adapters that it began with, and an adapter that is taken off
//! the list ends when the last of these has.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use edgeward_engine::Adapter;
use serde_json::{Value, json};

use super::{Reply, blocking, json, read, read_json};
use crate::adapters::{MAX_ADAPTERS, MAX_SCALE, Scales};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::model::ServedModel;
use crate::{LoadFailure, Server};

/// `[{"id": ID, "scale": NUMBER}]` in that field; llama.cpp's clients send an empty list where they want nothing.
pub fn scales(fields: &mut Fields, field: &str) -> Result<Option<Scales>, ApiError> {
    let Some(list) = fields.objects(field)? else { return Ok(None) };
    if list.len() > MAX_ADAPTERS {
        return Err(fields.error(field, format!("at most {MAX_ADAPTERS} can be named")));
    }
    let one = |mut item: Fields| {
        let id = item.count("id", 0..=usize::MAX)?;
        let scale = item.number("scale", -MAX_SCALE..=MAX_SCALE)?;
        Ok((item.required("id", id)?, item.required("scale", scale)?))
    };
    list.into_iter().map(one).collect::<Result<_, _>>().map(Some)
}

/// There is no adapter of that id.
pub fn unknown(field: &str, id: usize) -> ApiError {
    let message = format!("{field}: there is no adapter {id} here; GET /lora-adapters lists them");
    ApiError::field(field, message)
}

fn listed(model: &ServedModel) -> Value {
    let one = |listed: &crate::adapters::Listed| json!({ "id": listed.id, "path": listed.name, "scale": listed.scale });
    model.adapters.list().iter().map(one).collect()
}

/// `GET /lora-adapters`: those of the first model.
pub async fn list(State(server): State<Arc<Server>>) -> Reply {
    Ok(json(&listed(&*server.generator(None)?)))
}

/// `POST /lora-adapters`: how strong each is where a request does not say. A list alone is for the first model.
pub async fn set(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (value, _) = read_json(&server, request).await?;
    let value = if value.is_array() { json!({ "adapters": value }) } else { value };
    let mut fields = Fields::of_request(value)?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let scales = scales(&mut fields, "adapters")?;
    let scales = fields.required("adapters", scales)?;
    model.adapters.set_scales(&scales).map_err(|id| unknown("adapters", id))?;
    Ok(json(&json!({ "success": true })))
}

/// `POST /admin/adapters/load`: reads an adapter; its id.
pub async fn load(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let reference = fields.string("adapter")?;
    let reference = fields.required("adapter", reference)?;
    let scale = fields.number("scale", -MAX_SCALE..=MAX_SCALE)?.unwrap_or(1.0);
    if server.adapter_loader.is_none() {
        let message = "adapters are not loaded on request here: start the server with --allow-load";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).code("loading_is_off"));
    }
    let name = reference.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or_default().to_owned();
    let (opener, target) = (Arc::clone(&server), Arc::clone(&model));
    let adapter = blocking(move || {
        let loader = opener.adapter_loader.as_ref().expect("there is one");
        let config = target.config().ok_or_else(|| target.only_encodes())?;
        let file = loader(&reference, config).map_err(|failure| match failure {
            LoadFailure::NoRoom(why) | LoadFailure::Refused(why) => ApiError::field("adapter", why),
        })?;
        Ok(Arc::new(Adapter::new(&file)))
    })
    .await?;
    let id = model.adapters.add(name, scale, adapter).ok_or_else(|| {
        let message = format!("a model has at most {MAX_ADAPTERS} adapters: unload one");
        ApiError { status: StatusCode::CONFLICT, ..ApiError::field("adapter", message) }
    })?;
    Ok(json(&json!({ "id": id, "adapters": listed(&model) })))
}

/// `POST /admin/adapters/unload`: takes an adapter off the list.
pub async fn unload(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let id = fields.count("id", 0..=usize::MAX)?;
    let id = fields.required("id", id)?;
    let removed = model.adapters.remove(id).ok_or_else(|| unknown("id", id))?;
    let target = Arc::clone(&model);
    blocking(move || {
        target.forget(removed.adapter);
        Ok(())
    })
    .await?;
    Ok(json(&json!({ "adapters": listed(&model) })))
}
