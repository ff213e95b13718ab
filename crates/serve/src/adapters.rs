//! The adapters of a model that serves: which there are, and how strong each is where a request does not say.
//!
//! Requests take what they need along when they come, so the list may change at any time: what has begun ends as it began.
//!
//! Invariant: an id is never given to two adapters of a model.

use std::sync::{Arc, Mutex};

use edgeward_engine::{Adapter, Adapters};

use crate::model::lock;

/// Adapters of a model, at most.
pub const MAX_ADAPTERS: usize = 64;
/// How strong an adapter may be made, either way.
pub const MAX_SCALE: f64 = 100.0;

/// Ids and strengths, as requests give them.
pub type Scales = Vec<(usize, f32)>;

/// An adapter of a model.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name in requests.
    pub id: usize,
    /// The name of its file.
    pub name: String,
    /// Where a request does not say.
    pub scale: f32,
    /// What it computes.
    pub adapter: Arc<Adapter>,
}

/// See the [module's text](self).
#[derive(Debug, Default)]
pub struct AdapterList(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next_id: usize,
    /// Ascending by id.
    list: Vec<Listed>,
}

impl AdapterList {
    /// As it is now.
    pub fn list(&self) -> Vec<Listed> {
        lock(&self.0).list.clone()
    }

    /// Puts an adapter at the end; its id. None if there are too many.
    pub fn add(&self, name: String, scale: f32, adapter: Arc<Adapter>) -> Option<usize> {
        let mut inner = lock(&self.0);
        if inner.list.len() >= MAX_ADAPTERS {
            return None;
        }
        let id = inner.next_id;
        inner.next_id += 1;
        inner.list.push(Listed { id, name, scale, adapter });
        Some(id)
    }

    /// Takes an adapter off the list, if it is there.
    pub fn remove(&self, id: usize) -> Option<Listed> {
        let list = &mut lock(&self.0).list;
        let at = list.iter().position(|listed| listed.id == id)?;
        Some(list.remove(at))
    }

    /// Sets how strong each is; those that are not named are off.
    ///
    /// # Errors
    /// The id of which there is none; nothing has changed then.
    pub fn set_scales(&self, scales: &Scales) -> Result<(), usize> {
        let mut inner = lock(&self.0);
        inner.check(scales)?;
        for listed in &mut inner.list {
            listed.scale = scale_of(scales, listed.id).unwrap_or(0.0);
        }
        Ok(())
    }

    /// What a request gets that asks for these, or for nothing in particular: the adapters, and which they are.
    ///
    /// # Errors
    /// The id of which there is none.
    pub fn chosen(&self, asked: Option<&Scales>) -> Result<(Adapters, Scales), usize> {
        let inner = lock(&self.0);
        if let Some(asked) = asked {
            inner.check(asked)?;
        }
        let scale = |listed: &Listed| match asked {
            Some(asked) => scale_of(asked, listed.id).unwrap_or(0.0),
            None => listed.scale,
        };
        let on: Vec<(&Listed, f32)> = inner
            .list
            .iter()
            .map(|listed| (listed, scale(listed)))
            .filter(|(_, scale)| *scale != 0.0)
            .collect();
        let adapters = Adapters::new(on.iter().map(|(listed, scale)| (Arc::clone(&listed.adapter), *scale)));
        Ok((adapters, on.iter().map(|(listed, scale)| (listed.id, *scale)).collect()))
    }
}

impl Inner {
    fn check(&self, scales: &Scales) -> Result<(), usize> {
        let is_here = |id: usize| self.list.iter().any(|listed| listed.id == id);
        scales.iter().map(|(id, _)| *id).find(|id| !is_here(*id)).map_or(Ok(()), Err)
    }
}

/// The last that is said counts.
fn scale_of(scales: &Scales, id: usize) -> Option<f32> {
    scales.iter().rev().find(|(other, _)| *other == id).map(|(_, scale)| *scale)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::Path;

    use edgeward_model::Model;

    /// An adapter of the tiny llama.
    pub(crate) fn tiny_adapter(name: &str) -> Arc<Adapter> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
        let model = Model::load(&data.join("tiny/llama.gguf")).unwrap();
        let file = edgeward_model::Adapter::load(&data.join("adapter").join(name), model.config()).unwrap();
        Arc::new(Adapter::new(&file))
    }

    #[test]
    fn strengths_are_the_lists_unless_a_request_says_otherwise() {
        let list = AdapterList::default();
        let [all, few] = ["all", "few"].map(tiny_adapter);
        assert_eq!(list.add("all".into(), 1.0, Arc::clone(&all)), Some(0));
        assert_eq!(list.add("few".into(), 0.0, Arc::clone(&few)), Some(1));
        let chosen = |asked: Option<Scales>| list.chosen(asked.as_ref()).map(|(_, scales)| scales);
        assert_eq!(chosen(None), Ok(vec![(0, 1.0)]));
        assert_eq!(chosen(Some(vec![])), Ok(vec![]));
        assert_eq!(chosen(Some(vec![(1, 2.0), (0, 0.5), (0, 0.0)])), Ok(vec![(1, 2.0)]));
        assert_eq!(chosen(Some(vec![(0, 1.0), (2, 0.0)])), Err(2));
        assert_eq!(list.set_scales(&vec![(7, 1.0)]), Err(7));
        assert_eq!(chosen(None), Ok(vec![(0, 1.0)]));
        assert_eq!(list.set_scales(&vec![(1, 0.5)]), Ok(()));
        assert_eq!(chosen(None), Ok(vec![(1, 0.5)]));
        let (adapters, _) = list.chosen(None).unwrap();
        assert_eq!(adapters, Adapters::new([(Arc::clone(&few), 0.5)]));
        assert_eq!(list.remove(1).map(|listed| listed.name), Some("few".to_owned()));
        assert!(list.remove(1).is_none());
        assert_eq!(list.add("few".into(), 1.0, few), Some(2), "ids are not used again");
        (1..MAX_ADAPTERS - 1).for_each(|_| assert!(list.add(String::new(), 1.0, Arc::clone(&all)).is_some()));
        assert_eq!(list.add(String::new(), 1.0, all), None);
    }
}
