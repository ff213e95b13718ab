//! A graph made ready to run: constants laid out for the kernels, memory planned, one list of steps.
//!
//! Making it ready costs milliseconds; a run allocates nothing and starts no thread. Eight-bit activations are kept as
//! unsigned bytes, 128 more than TFLite's signed ones; callers do not see that.

mod fold;
mod layers;
mod lower;
mod memory;
mod threads;
pub(crate) mod walk;

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool};

use crate::error::Error;
use crate::graph::{ElementType, Graph};
use memory::{Memory, ValueId};
use threads::Threads;

/// Whose arithmetic eight-bit layers follow, to the last bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// XNNPACK's, which TFLite's interpreter uses by default: floats where sums are scaled.
    #[default]
    Xnnpack,
    /// That of TFLite's reference kernels, and of microcontrollers: whole numbers only. Slower.
    Reference,
}

/// How a network is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads, the caller's included.
    pub n_threads: usize,
    /// Instructions to use; results do not depend on it.
    pub isa: Isa,
    /// How eight-bit layers round.
    pub arithmetic: Arithmetic,
    /// Bytes that weights and activations may take; a network that needs more is refused before anything is allocated.
    pub limit_bytes: u64,
}

impl Default for Options {
    /// One thread, the best instruction set, as XNNPACK, at most 1 GiB.
    fn default() -> Options {
        Options { n_threads: 1, isa: Isa::best(), arithmetic: Arithmetic::Xnnpack, limit_bytes: 1 << 30 }
    }
}

/// An input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The file's name for it.
    pub name: String,
    /// Dimensions; images are `[batch, rows, columns, channels]`.
    pub shape: Vec<usize>,
    /// Floats or signed bytes.
    pub element_type: ElementType,
    /// Scale and zero point of bytes: `scale * (q - zero)`.
    pub quantization: Option<(f32, i32)>,
    value: ValueId,
}

impl Port {
    #[cfg(test)]
    pub(crate) fn for_tests(
        shape: &[usize],
        element_type: ElementType,
        quantization: Option<(f32, i32)>,
    ) -> Port {
        Port { name: String::new(), shape: shape.to_vec(), element_type, quantization, value: 0 }
    }

    /// Elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// # Errors
    /// If there are not as many elements, or they are of another type.
    fn check(&self, n_elements: usize, element_type: Option<ElementType>) -> Result<(), Error> {
        if n_elements != self.n_elements() {
            let what = format!(
                "give {} elements (shape {:?}) for {}, not {n_elements}",
                self.n_elements(),
                self.shape,
                self.name
            );
            return Err(Error::Mismatch { what });
        }
        match element_type {
            Some(element_type) if element_type != self.element_type => {
                let what =
                    format!("{} has elements of type {}, not {element_type}", self.name, self.element_type);
                Err(Error::Mismatch { what })
            }
            _ => Ok(()),
        }
    }
}

/// What a network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of all activations at their peak.
    pub arena_bytes: u64,
    /// Bytes of weights, laid out for the kernels.
    pub weight_bytes: u64,
    /// Multiply-adds of one run, and additions of pooling.
    pub macs: u64,
}

/// One thing to do. It reads and writes values of the memory, and nothing else.
trait Step: Send + Sync {
    fn run(&self, memory: &mut Memory, pool: &mut Pool, isa: Isa);
}

/// A network that runs.
pub struct Network {
    steps: Vec<Box<dyn Step>>,
    memory: Memory,
    threads: Threads,
    isa: Isa,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    cost: Cost,
}

impl Network {
    /// Makes `graph` ready.
    ///
    /// # Errors
    /// What cannot be computed is refused by name, shapes that do not fit are malformed, and a network that needs more
    /// than the limit is too large.
    pub fn new(graph: &Graph, options: &Options) -> Result<Network, Error> {
        let plan = lower::lower(graph, options.arithmetic, options.limit_bytes)?;
        let (places, arena_bytes) = memory::plan(&plan.values);
        let cost = Cost { arena_bytes: arena_bytes as u64, weight_bytes: plan.weight_bytes, macs: plan.macs };
        let needed_bytes = cost.arena_bytes.saturating_add(cost.weight_bytes);
        if needed_bytes > options.limit_bytes {
            return Err(Error::TooLarge { needed_bytes, limit_bytes: options.limit_bytes });
        }
        let mut memory = Memory::new(&plan.values, places, arena_bytes);
        for (value, constant) in &plan.constants {
            memory.get_mut(*value).copy_from_slice(constant.bytes());
        }
        let threads = Threads::new(options.n_threads, &plan.steps, &mut memory, options.isa);
        Ok(Network {
            steps: plan.steps,
            memory,
            threads,
            isa: options.isa,
            inputs: plan.inputs,
            outputs: plan.outputs,
            cost,
        })
    }

    /// What it is to be given before each run.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What it gives.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// What it takes.
    pub fn cost(&self) -> Cost {
        debug_assert_eq!(self.cost.arena_bytes, self.memory.size_bytes() as u64);
        self.cost
    }

    /// Gives input `idx`, as numbers; where the network works in bytes they are quantised, ties away from zero. A run
    /// may overwrite its inputs: give each before every run.
    ///
    /// # Errors
    /// If there is no such input, its length is another, or a value is not a number.
    pub fn set_input(&mut self, idx: usize, values: &[f32]) -> Result<(), Error> {
        let port = port(&self.inputs, idx)?;
        port.check(values.len(), None)?;
        if let Some(at) = values.iter().position(|value| value.is_nan()) {
            return Err(Error::Mismatch { what: format!("element {at} for {} is not a number", port.name) });
        }
        let memory = self.memory.get_mut(port.value);
        match port.quantization {
            None => floats_mut(memory).copy_from_slice(values),
            Some((scale, zero)) => {
                for (byte, value) in memory.iter_mut().zip(values) {
                    let q = (value / scale).round() + zero as f32;
                    *byte = to_byte(q.clamp(-128.0, 127.0) as i8);
                }
            }
        }
        Ok(())
    }

    /// Gives input `idx` of a network that works in bytes, as they are.
    ///
    /// # Errors
    /// If there is no such input, or its length or type is another.
    pub fn set_input_bytes(&mut self, idx: usize, values: &[i8]) -> Result<(), Error> {
        let port = port(&self.inputs, idx)?;
        port.check(values.len(), Some(ElementType::I8))?;
        for (byte, value) in self.memory.get_mut(port.value).iter_mut().zip(values) {
            *byte = to_byte(*value);
        }
        Ok(())
    }

    /// Computes the outputs.
    pub fn run(&mut self) {
        self.threads.run(&self.steps, &mut self.memory, self.isa);
    }

    /// Writes output `idx` of the last run to `values`, as numbers.
    ///
    /// # Errors
    /// If there is no such output, or its length is another.
    pub fn output(&self, idx: usize, values: &mut [f32]) -> Result<(), Error> {
        let port = port(&self.outputs, idx)?;
        port.check(values.len(), None)?;
        let memory = self.memory.get(port.value);
        match port.quantization {
            None => values.copy_from_slice(floats(memory)),
            Some((scale, zero)) => {
                for (value, byte) in values.iter_mut().zip(memory) {
                    *value = scale * (i32::from(from_byte(*byte)) - zero) as f32;
                }
            }
        }
        Ok(())
    }

    /// Writes output `idx` of a network that works in bytes, as they are.
    ///
    /// # Errors
    /// If there is no such output, or its length or type is another.
    pub fn output_bytes(&self, idx: usize, values: &mut [i8]) -> Result<(), Error> {
        let port = port(&self.outputs, idx)?;
        port.check(values.len(), Some(ElementType::I8))?;
        for (value, byte) in values.iter_mut().zip(self.memory.get(port.value)) {
            *value = from_byte(*byte);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({} steps, {:?})", self.steps.len(), self.cost)
    }
}

fn port(ports: &[Port], idx: usize) -> Result<&Port, Error> {
    ports.get(idx).ok_or_else(|| Error::Mismatch {
        what: format!("there are {} of these, no number {idx}", ports.len()),
    })
}

/// A signed byte as it is kept.
fn to_byte(value: i8) -> u8 {
    (i16::from(value) + 128) as u8
}

/// The inverse of [`to_byte`].
fn from_byte(byte: u8) -> i8 {
    (i16::from(byte) - 128) as i8
}
