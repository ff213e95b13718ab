//! An open model: hyperparameters, and tensors by their place in the network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::error::LoadError;
use crate::gguf::{self, Gguf};
use crate::huggingface::{self, Folder, OutputHead};
use crate::layout::{self, Naming};
use crate::mmap::Map;
use crate::tensor::{Slot, Tensor};

/// An open model. Its files must not change while it is open (see [`crate::mmap`]).
///
/// Every tensor that the family needs is there, of the shape that the hyperparameters imply, and there is no other.
#[derive(Debug)]
pub struct Model {
    config: Config,
    files: Files,
    /// Ascending by slot.
    places: Vec<Place>,
}

/// The bytes of a model's tensor, which keep the model open; found anew each time they are asked for.
#[derive(Debug)]
pub struct TensorBytes {
    model: Arc<Model>,
    slot: Slot,
}

impl TensorBytes {
    /// Of that slot's tensor; none if the model has no such tensor.
    pub fn new(model: &Arc<Model>, slot: Slot) -> TensorBytes {
        TensorBytes { model: Arc::clone(model), slot }
    }
}

impl AsRef<[u8]> for TensorBytes {
    fn as_ref(&self) -> &[u8] {
        self.model.tensor(self.slot).map_or(&[], |tensor| tensor.data)
    }
}

#[derive(Debug)]
enum Files {
    Gguf { path: PathBuf, gguf: Gguf },
    Folder(Folder),
}

/// Where a slot's tensor is.
#[derive(Debug)]
struct Place {
    slot: Slot,
    tensor_idx: usize,
}

/// Where the tokenizer and the chat template of a model are to be found.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// In the metadata of this file.
    Gguf(&'a Gguf),
    /// In the files of this folder, beside config.json.
    Folder(&'a Path),
}

impl Model {
    /// Opens the model at `path`: a GGUF file, a folder with config.json and safetensors, or one safetensors file in
    /// such a folder.
    ///
    /// # Errors
    /// Whatever is wrong with the files, the hyperparameters or the tensors.
    pub fn load(path: &Path) -> Result<Model, LoadError> {
        if is_folder_of_safetensors(path) {
            return Model::from_folder(Folder::open(path)?);
        }
        let gguf = Gguf::open(path).map_err(|source| LoadError::Gguf { path: path.to_owned(), source })?;
        Model::from_gguf(gguf, path)
    }

    /// Makes a model of an open GGUF file; `path` is its name in errors.
    ///
    /// # Errors
    /// Whatever is wrong with its hyperparameters or its tensors.
    pub fn from_gguf(gguf: Gguf, path: &Path) -> Result<Model, LoadError> {
        if gguf.get("split.count").and_then(|n| n.as_u64()).is_some_and(|n| n > 1) {
            return Err(LoadError::SplitGguf { path: path.to_owned() });
        }
        let config = gguf::config_of(&gguf)
            .and_then(|config| gguf::check_vocabulary(&gguf, &config).map(|()| config))
            .map_err(|source| LoadError::Config { path: path.to_owned(), source })?;
        let tensors = gguf.tensors().map(|tensor| tensor.as_matrix()).enumerate();
        let tensors = tensors.filter(|(_, tensor)| !gguf::is_in_config(config.family, tensor.name));
        let places = place(Naming::Gguf, &config, tensors)?;
        Ok(Model { config, places, files: Files::Gguf { path: path.to_owned(), gguf } })
    }

    /// As [`Model::from_gguf`], of an open folder.
    pub(crate) fn from_folder(folder: Folder) -> Result<Model, LoadError> {
        let config = folder.config.clone();
        let head = Naming::HuggingFace.name_of(config.family, Slot::Output);
        let tensors = folder.shards.tensors().map(|tensor| tensor.as_matrix()).enumerate();
        // A tied model's file may hold the embedding a second time under the head's name; it is not used.
        let tensors =
            tensors.filter(|(_, tensor)| folder.output_head == OutputHead::Own || tensor.name != head);
        let tensors = tensors.filter(|(_, tensor)| !huggingface::is_in_config(tensor.name));
        let places = place(Naming::HuggingFace, &config, tensors)?;
        let has_head = places.iter().any(|place| place.slot == Slot::Output);
        if folder.output_head == OutputHead::Own && !has_head {
            return Err(LoadError::MissingTensor { name: head });
        }
        Ok(Model { config, places, files: Files::Folder(folder) })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensor of that slot, if the model has one. [`Slot::Output`] is absent where the embedding serves for it.
    pub fn tensor(&self, slot: Slot) -> Option<Tensor<'_>> {
        let at = self.places.binary_search_by(|place| place.slot.cmp(&slot)).ok()?;
        Some(self.tensor_at(&self.places[at]))
    }

    /// Every tensor and its slot, ascending by slot.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (Slot, Tensor<'_>)> {
        self.places.iter().map(|place| (place.slot, self.tensor_at(place)))
    }

    /// Gives the memory of a tensor's pages back to the system, because its weights have been copied elsewhere.
    /// Reading it later is correct, and slow. Pages shared with another tensor stay.
    pub fn release(&self, tensor: &Tensor<'_>) {
        for map in self.maps() {
            let start = (tensor.data.as_ptr() as usize).checked_sub(map.as_ptr() as usize);
            if let Some(start) = start.filter(|start| start + tensor.data.len() <= map.len()) {
                map.release(start..start + tensor.data.len());
            }
        }
    }

    /// The same of all tensors, though they are read where they are: for whoever needs one layer after the other, and not the
    /// whole model at once.
    pub fn release_all(&self) {
        self.tensors().for_each(|(_, tensor)| self.release(&tensor));
    }

    /// Where to look for the tokenizer and the chat template.
    pub fn source(&self) -> Source<'_> {
        match &self.files {
            Files::Gguf { gguf, .. } => Source::Gguf(gguf),
            Files::Folder(folder) => Source::Folder(&folder.path),
        }
    }

    /// The GGUF file, or the folder, that was opened.
    pub fn path(&self) -> &Path {
        match &self.files {
            Files::Gguf { path, .. } => path,
            Files::Folder(folder) => &folder.path,
        }
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.files {
            Files::Gguf { gguf, .. } => Some(gguf),
            Files::Folder(_) => None,
        }
    }

    /// Bytes of all files that are mapped.
    pub fn file_bytes(&self) -> u64 {
        self.maps().map(|map| map.len() as u64).sum()
    }

    fn maps(&self) -> impl Iterator<Item = &Map> {
        let (gguf, shards) = match &self.files {
            Files::Gguf { gguf, .. } => (Some(gguf.map()), [].as_slice()),
            Files::Folder(folder) => (None, folder.shards.files()),
        };
        gguf.into_iter().chain(shards.iter().map(|file| file.map()))
    }

    fn tensor_at(&self, place: &Place) -> Tensor<'_> {
        match &self.files {
            Files::Gguf { gguf, .. } => gguf.tensor_at(place.tensor_idx).as_matrix(),
            Files::Folder(folder) => folder.shards.tensor_at(place.tensor_idx).as_matrix(),
        }
    }
}

/// Whether `path` is to be opened as a folder with config.json: it is one, or a safetensors file in one.
pub(crate) fn is_folder_of_safetensors(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|extension| extension == "safetensors")
}

/// Finds the place of every tensor, ascending by slot, and checks that all are there, of the right shape, and no more.
fn place<'a>(
    naming: Naming,
    config: &Config,
    tensors: impl Iterator<Item = (usize, Tensor<'a>)>,
) -> Result<Vec<Place>, LoadError> {
    let mut places = Vec::new();
    for (tensor_idx, tensor) in tensors {
        let slot = naming.slot_of(config.family, tensor.name).filter(|slot| match slot {
            Slot::Layer(layer_idx, _) => *layer_idx < config.n_layers,
            _ => true,
        });
        let slot = slot.ok_or_else(|| LoadError::UnknownTensor { name: tensor.name.to_owned() })?;
        let expected = layout::shape(config, slot);
        let found = (tensor.n_rows, tensor.n_cols);
        if found != expected {
            return Err(LoadError::WrongShape { name: tensor.name.to_owned(), expected, found });
        }
        places.push(Place { slot, tensor_idx });
    }
    places.sort_unstable_by_key(|place| place.slot);

    let is_there = |slot| places.binary_search_by(|place| place.slot.cmp(&slot)).is_ok();
    let globals = [Slot::TokenEmbedding, Slot::OutputNorm].into_iter();
    let layers = (0..config.n_layers).flat_map(|layer_idx| {
        layout::layer_slots(config.family).iter().map(move |&slot| Slot::Layer(layer_idx, slot))
    });
    match globals.chain(layers).find(|&slot| !is_there(slot)) {
        Some(slot) => Err(LoadError::MissingTensor { name: naming.name_of(config.family, slot) }),
        None => Ok(places),
    }
}

#[cfg(test)]
mod tests;
