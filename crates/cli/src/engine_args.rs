//! From a model's name to an engine, the same way for every command that computes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use edgeward_compress::certificate;
use edgeward_engine::{Adapter, Adapters, Engine, EngineOptions, Precision};
use edgeward_kernels::kv::{KvType, PAGE_LEN};
use edgeward_model::Model;
use edgeward_model::gguf::Gguf;
use edgeward_model::inspect::{Budget, MemoryEstimate};

use crate::device;
use crate::store::{Progress, Store, human_bytes};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvArg {
    /// Half floats
    F16,
    /// Bytes with a scale for each 32: half the memory
    #[value(name = "q8_0")]
    Q8_0,
    /// Floats as they are computed: twice the memory
    F32,
}

impl From<KvArg> for KvType {
    fn from(arg: KvArg) -> KvType {
        match arg {
            KvArg::F16 => KvType::F16,
            KvArg::Q8_0 => KvType::Q8_0,
            KvArg::F32 => KvType::F32,
        }
    }
}

/// How finely inputs of quantised matrices are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// Eight bits: hardly faster than balanced, with three times its error
    Fast,
    /// Eight bits, and fifteen where they matter most
    Balanced,
    /// Fifteen bits: a third slower at reading prompts, no error to speak of
    Exact,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Precision {
        match arg {
            PrecisionArg::Fast => Precision::Fast,
            PrecisionArg::Balanced => Precision::Balanced,
            PrecisionArg::Exact => Precision::Exact,
        }
    }
}

/// Arguments of every command that computes.
#[derive(clap::Args)]
pub struct EngineArgs {
    /// Threads [default: as many as can run at once]
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Longest conversation, tokens [default: what the model was made for]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// How keys and values are kept [default: as the file says, else f16]
    #[arg(long, value_enum)]
    pub kv: Option<KvArg>,
    /// How finely the inputs of quantised matrices are rounded
    #[arg(long, value_enum, default_value = "balanced")]
    pub precision: PrecisionArg,
}

impl EngineArgs {
    /// Makes an engine of an open model.
    pub fn engine(&self, model: &Arc<Model>, progress: &Progress) -> Result<Engine, edgeward_engine::Error> {
        let n_threads = self.threads.map_or_else(device::n_logical_cores, usize::from);
        let options = EngineOptions {
            n_threads,
            kv_type: kv_type(self.kv, model.gguf()),
            context_len: self.context.unwrap_or(0) as usize,
            precision: self.precision.into(),
            ..EngineOptions::default()
        };
        engine(model, options, progress)
    }
}

/// An adapter and how strong it is: FILE[=SCALE].
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg {
    /// A GGUF file, or a folder of peft's.
    pub path: PathBuf,
    /// Its product is multiplied by it.
    pub scale: f32,
}

impl std::str::FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraArg, String> {
        // A name may have such a sign, too: only a number behind it is a strength.
        let split = text.rsplit_once('=').and_then(|(path, scale)| Some((path, scale.parse::<f32>().ok()?)));
        let (path, scale) = split.unwrap_or((text, 1.0));
        let most = edgeward_serve::adapters::MAX_SCALE as f32;
        match path.is_empty() || !(-most..=most).contains(&scale) {
            true => {
                Err(format!("write a file and perhaps a strength from -{most} to {most}, as chat.gguf=0.5"))
            }
            false => Ok(LoraArg { path: path.into(), scale }),
        }
    }
}

/// Reads an adapter for a model.
pub fn adapter(path: &Path, model: &Model) -> Result<Arc<Adapter>, edgeward_model::AdapterError> {
    Ok(Arc::new(Adapter::new(&edgeward_model::Adapter::load(path, model.config())?)))
}

/// Reads all that are asked for.
pub fn adapters(args: &[LoraArg], model: &Model) -> Result<Adapters, edgeward_model::AdapterError> {
    let list = args.iter().map(|arg| Ok((adapter(&arg.path, model)?, arg.scale)));
    Ok(Adapters::new(list.collect::<Result<Vec<_>, _>>()?))
}

/// How keys and values are to be kept: as was asked, else as the file of a compressed model says.
pub fn kv_type(asked: Option<KvArg>, file: Option<&Gguf>) -> KvType {
    let of_file = || KvType::by_name(file?.get(certificate::KV_KEY)?.as_str()?);
    asked.map(KvType::from).or_else(of_file).unwrap_or_default()
}

/// Makes an engine, and says so beforehand if memory will not do.
pub fn engine(
    model: &Arc<Model>,
    options: EngineOptions,
    progress: &Progress,
) -> Result<Engine, edgeward_engine::Error> {
    // Room for one page of keys and values is the least; what a longer conversation takes comes as it grows.
    let estimate =
        MemoryEstimate::new(model.config(), model.file_bytes(), &budget(Some(PAGE_LEN), options.kv_type));
    if let (Some(false), Some(available_bytes)) = (estimate.fits, estimate.available_bytes) {
        progress.note(&format!(
            "This model needs {} of memory and {} are free: close other programs, or take a smaller model.",
            human_bytes(estimate.total_bytes),
            human_bytes(available_bytes)
        ));
    }
    Engine::new(model, options)
}

/// What there is of memory for a model with keys and values kept as `kv_type`.
pub fn budget(context_len: Option<usize>, kv_type: KvType) -> Budget {
    Budget {
        context_len,
        kv_dtype: kv_type.dtype(),
        n_batch: Engine::MAX_STEP_TOKENS,
        available_bytes: device::memory().map(|memory| memory.available_bytes),
    }
}

/// Opens the model that `name` stands for, after pulling it if need be.
pub fn open(name: &str, progress: &mut Progress) -> Result<Arc<Model>, Box<dyn std::error::Error>> {
    let path = Store::open()?.resolve(name, progress)?;
    Ok(Arc::new(Model::load(&path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_and_strengths() {
        let read =
            |text: &str| text.parse().map(|LoraArg { path, scale }| (path.display().to_string(), scale));
        assert_eq!(read("a.gguf"), Ok(("a.gguf".into(), 1.0)));
        assert_eq!(read("a.gguf=0.5"), Ok(("a.gguf".into(), 0.5)));
        assert_eq!(read("a=b/c.gguf=-2"), Ok(("a=b/c.gguf".into(), -2.0)));
        assert_eq!(read("rank=8/adapter"), Ok(("rank=8/adapter".into(), 1.0)));
        for wrong in ["", "=1", "a.gguf=1e9", "a.gguf=nan"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
