//! `POST /admin/models/load`, `/unload` and `/swap`: other models while the server runs, for keys with the scope admin.
//!
//! Only where the server was started so: a model is a file of this machine, and takes its memory.
//!
//! No request is dropped. A model that is taken off the list is not asked any more, and ends by itself when the last request
//! that has it is answered; a swapped one has the name of the old from one request to the next. Models are loaded one at a
//! time, so that two do not count on the same memory.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde_json::json;

use super::{Reply, blocking, json, read};
use crate::error::ApiError;
use crate::model::ServedModel;
use crate::{LoadFailure, Server};

/// For a model to give its memory back after it has been taken off the list with nothing to do.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Loads a model; with `make_room`, others that have nothing to do may go for it.
pub async fn load(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let reference = fields.string("model")?;
    let reference = fields.required("model", reference)?;
    let makes_room = fields.bool("make_room")?.unwrap_or(false);
    let (model, unloaded) = make(&server, reference, makes_room).await?;
    let name = model.info.name.clone();
    server.add(Arc::new(model)).map_err(|()| {
        let message = format!("there is a model called {name}: unload it, or swap it");
        ApiError { status: StatusCode::CONFLICT, ..ApiError::field("model", message) }
    })?;
    Ok(json(&json!({ "loaded": name, "unloaded": unloaded })))
}

/// Takes a model off the list.
pub async fn unload(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let name = fields.string("model")?;
    let name = fields.required("model", name)?;
    let model = server.model(Some(&name))?;
    server.remove(&model);
    Ok(json(&json!({ "loaded": null, "unloaded": [model.info.name] })))
}

/// Loads a model, which then answers to the name of another instead of it.
pub async fn swap(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let name = fields.string("model")?;
    let name = fields.required("model", name)?;
    let reference = fields.string("with")?;
    let reference = fields.required("with", reference)?;
    let old = server.model(Some(&name))?;
    let (mut model, _) = make(&server, reference, false).await?;
    let loaded = std::mem::replace(&mut model.info.name, old.info.name.clone());
    server.replace(&old, Arc::new(model)).map_err(|()| {
        let message = format!("{name} has been unloaded meanwhile");
        ApiError { status: StatusCode::CONFLICT, ..ApiError::field("model", message) }
    })?;
    Ok(json(&json!({ "loaded": loaded, "unloaded": [], "name": name })))
}

/// Opens a model, and says which others have gone for it.
async fn make(
    server: &Arc<Server>,
    reference: String,
    makes_room: bool,
) -> Result<(ServedModel, Vec<String>), ApiError> {
    if server.loader.is_none() {
        let message = "models are not loaded on request here: start the server with --allow-load";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).code("loading_is_off"));
    }
    let _turn = server.loading.lock().await;
    let mut unloaded = Vec::new();
    loop {
        let (opener, reference) = (Arc::clone(server), reference.clone());
        let opened = blocking(move || {
            let loader = opener.loader.as_ref().expect("there is one");
            Ok(loader(&reference))
        })
        .await?;
        match opened {
            Ok(model) => return Ok((model, unloaded)),
            Err(LoadFailure::Refused(why)) => return Err(ApiError::field("model", why)),
            Err(LoadFailure::NoRoom(why)) => {
                let idle = if makes_room { server.take_idle() } else { None };
                let Some(idle) = idle else {
                    let error = ApiError::new(StatusCode::INSUFFICIENT_STORAGE, why);
                    return Err(error.code("no_room"));
                };
                unloaded.push(idle.info.name.clone());
                blocking(move || {
                    let begun = std::time::Instant::now();
                    // Whoever has just found it may still ask.
                    while Arc::strong_count(&idle) > 1 && begun.elapsed() < UNLOAD_TIMEOUT {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    if Arc::strong_count(&idle) == 1 {
                        idle.stop();
                    }
                    Ok(())
                })
                .await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use edgeward_engine::{Engine, EngineOptions};
    use edgeward_model::Model;

    use crate::scheduler::Limits;
    use crate::{BoundServer, Loader, ModelInfo, ModelText, ServerOptions};

    fn tiny(name: &str) -> ServedModel {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/llama.gguf");
        let model = Arc::new(Model::load(&path).unwrap());
        let options = EngineOptions { n_threads: 1, context_len: 64, ..EngineOptions::default() };
        let engine = Engine::new(&model, options).unwrap();
        let info = ModelInfo { name: name.into(), context_len: 64, ..ModelInfo::default() };
        ServedModel::start(info, ModelText::new(&model, None).unwrap(), engine, Limits::default(), None)
            .unwrap()
    }

    fn server(names: &[&str], loader: Option<Loader>) -> Arc<Server> {
        let models = names.iter().map(|name| Arc::new(tiny(name))).collect();
        let options = ServerOptions { loader, ..ServerOptions::default() };
        BoundServer::bind(&[Ipv4Addr::LOCALHOST.into()], 0, models, options, None).unwrap().server
    }

    fn names(server: &Server) -> Vec<String> {
        server.models().iter().map(|model| model.info.name.clone()).collect()
    }

    #[tokio::test]
    async fn idle_models_make_room_those_first_that_were_unused_longest() {
        // Room for the new one when two have gone.
        let n_calls = AtomicUsize::new(0);
        let loader: Loader = Box::new(move |reference| match n_calls.fetch_add(1, Ordering::Relaxed) % 3 {
            0 | 1 => Err(LoadFailure::NoRoom("too large".into())),
            _ => Ok(tiny(reference)),
        });
        let server = server(&["a", "b", "c"], Some(loader));
        server.model(Some("a")).unwrap().touch();
        let error = make(&server, "new".into(), false).await.err().unwrap();
        assert_eq!(error.status, StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(names(&server), ["a", "b", "c"]);
        // The loader is at its second refusal, then lets it in.
        let (model, unloaded) = make(&server, "new".into(), true).await.unwrap();
        assert_eq!((model.info.name.as_str(), unloaded), ("new", vec!["b".to_owned()]));
        assert_eq!(names(&server), ["a", "c"]);
        server.add(Arc::new(model)).unwrap();
        assert!(server.add(Arc::new(tiny("a"))).is_err());
        let old = server.model(Some("c")).unwrap();
        server.replace(&old, Arc::new(tiny("c"))).unwrap();
        assert!(server.replace(&old, Arc::new(tiny("c"))).is_err(), "it is not there any more");
        assert_eq!(names(&server), ["a", "c", "new"]);
    }

    #[tokio::test]
    async fn loading_is_off_unless_asked_for() {
        let server = server(&["a"], None);
        let error = make(&server, "new".into(), true).await.err().unwrap();
        assert_eq!((error.status, error.code), (StatusCode::FORBIDDEN, Some("loading_is_off")));
    }
}
