//! What a model may take on a device: from the user's words to a solution.
//!
//! Bytes of a file are exact. Memory and time are not only the matrices': how much comes on top is found out by running
//! a hollow file of the solution's types here, and the budget is solved for again with what was learnt, until both agree.
//! For another device, of which there is only a profile, they are reckoned.

use std::collections::BTreeMap;
use std::path::Path;

use edgeward_compress::certificate::{DeviceRecord, KV_KEY};
use edgeward_compress::compress::Compressor;
use edgeward_compress::search::{self, Limits, Search, Solution};
use edgeward_engine::KvType;
use edgeward_kernels::DType;
use edgeward_model::gguf::Value;
use edgeward_model::inspect::MemoryEstimate;

use super::running::{self, Figures};
use super::temporary::Temporary;
use super::{Outcome, Size};
use crate::device::{self, DeviceProfile};
use crate::engine_args;
use crate::store::{Store, human_bytes};

/// Solutions that are run at most.
const MAX_RUNS: usize = 6;
/// A solution is near enough to a budget that it uses up to this part.
const NEAR: f64 = 0.98;
/// Left of a time budget for what differs from one run to the next.
const TIME_MARGIN: f64 = 0.99;

/// How large a divergence each name stands for, nats; explained in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Still fluent; for the smallest devices: 0.25 nats
    Tiny,
    /// Answers differ, mostly in wording: 0.1 nats
    Small,
    /// Hardly to be told from the original: 0.03 nats
    Balanced,
    /// The original for most purposes: 0.01 nats
    Faithful,
}

impl Preset {
    /// The mean divergence that the result may be expected to have, nats.
    pub fn max_kl(self) -> f64 {
        match self {
            Preset::Tiny => 0.25,
            Preset::Small => 0.1,
            Preset::Balanced => 0.03,
            Preset::Faithful => 0.01,
        }
    }
}

/// `4ms/token`, `4ms`, `0.5s`: nanoseconds.
pub fn parse_latency(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no time such as 4ms/token, 4ms or 0.5s");
    let time = text.strip_suffix("/token").unwrap_or(text).trim_end();
    let (digits, unit) = [("ms", 1e6), ("us", 1e3), ("ns", 1.0), ("s", 1e9)]
        .iter()
        .find_map(|(suffix, unit)| Some((time.strip_suffix(suffix)?, *unit)))
        .ok_or_else(wrong)?;
    let nanoseconds = digits.trim_end().parse::<f64>().map_err(|_| wrong())? * unit;
    if (1e3..=1e12).contains(&nanoseconds) { Ok(nanoseconds) } else { Err(wrong()) }
}

/// What was asked for.
pub struct Wish<'a> {
    pub size: Option<&'a Size>,
    pub ram: Option<&'a Size>,
    pub latency_ns: Option<f64>,
    /// Positions of keys and values that memory must have room for.
    pub context_len: usize,
    pub n_threads: usize,
    /// Another device than this.
    pub profile: Option<&'a DeviceProfile>,
}

/// What a model takes besides its matrices.
#[derive(Clone, Copy, Debug)]
pub struct Besides {
    memory_bytes: f64,
    nanoseconds: f64,
}

impl Besides {
    /// As far as it can be reckoned before anything is run.
    fn reckoned(search: &Search, rest_bytes: u64) -> Besides {
        let no_context = engine_args::budget(Some(0), KvType::F16);
        let memory = MemoryEstimate::new(search.config(), rest_bytes, &no_context);
        Besides { memory_bytes: memory.total_bytes as f64, nanoseconds: 0.0 }
    }

    /// What running tells, of which `matrices` are the matrices' part.
    fn learnt(self, figures: Figures, matrices: Besides) -> Besides {
        let memory = figures.memory_bytes.map(|bytes| bytes as f64 - matrices.memory_bytes);
        Besides {
            memory_bytes: memory.unwrap_or(self.memory_bytes),
            nanoseconds: figures.ns_per_token - matrices.nanoseconds,
        }
    }
}

impl Wish<'_> {
    /// The best solution, and what running it is expected to take. `rest_bytes` of the file are not matrices; hollow files
    /// are made beside `beside`.
    pub fn solve(
        &self,
        search: &Search,
        compressor: &Compressor,
        rest_bytes: u64,
        beside: &Path,
    ) -> Outcome<(Solution, Figures)> {
        let speeds = self.speeds()?;
        let mut besides = Besides::reckoned(search, rest_bytes);
        let mut best: Option<(Solution, Figures)> = None;
        for _ in 0..MAX_RUNS {
            let solution = search.solve(&self.limits(besides, rest_bytes, &speeds));
            let solution = solution.ok_or_else(|| self.impossible(search, besides))?;
            let matrices = self.matrices(search, &solution, &speeds);
            if self.profile.is_some() {
                let figures = Figures {
                    ns_per_token: matrices.nanoseconds + besides.nanoseconds,
                    memory_bytes: Some((matrices.memory_bytes + besides.memory_bytes) as u64),
                };
                return Ok((solution, figures));
            }
            let figures = self.run(&solution, compressor, beside)?;
            let is_same = best.as_ref().is_some_and(|(other, _)| {
                other.assignment == solution.assignment && other.kv_type == solution.kv_type
            });
            besides = besides.learnt(figures, matrices);
            if self.keeps(figures) {
                let is_better = best.as_ref().is_none_or(|(other, _)| solution.loss() < other.loss());
                if is_better {
                    best = Some((solution, figures));
                }
                if is_same || self.uses(figures) >= NEAR {
                    break;
                }
            }
        }
        best.ok_or_else(|| {
            "what is run here varies more than the budget allows for: \
             stop what else runs on this device, or raise the budget"
                .into()
        })
    }

    /// What a model takes besides its matrices, as running it in the best types tells; `None` if no choice of types keeps
    /// within the budget.
    pub fn besides(
        &self,
        search: &Search,
        compressor: &Compressor,
        rest_bytes: u64,
        beside: &Path,
    ) -> Outcome<Option<Besides>> {
        let speeds = self.speeds()?;
        let besides = Besides::reckoned(search, rest_bytes);
        let Some(solution) = search.solve(&self.limits(besides, rest_bytes, &speeds)) else {
            return Ok(None);
        };
        if self.profile.is_some() {
            return Ok(Some(besides));
        }
        let figures = self.run(&solution, compressor, beside)?;
        Ok(Some(besides.learnt(figures, self.matrices(search, &solution, &speeds))))
    }

    /// The best solution if a model takes `besides` besides its matrices.
    pub fn solve_with(
        &self,
        search: &Search,
        besides: Besides,
        rest_bytes: u64,
    ) -> Outcome<Option<Solution>> {
        Ok(search.solve(&self.limits(besides, rest_bytes, &self.speeds()?)))
    }

    fn matrices(&self, search: &Search, solution: &Solution, speeds: &BTreeMap<DType, f64>) -> Besides {
        Besides {
            memory_bytes: search.memory_of(solution, self.context_len),
            nanoseconds: search.latency_of(solution, speeds),
        }
    }

    /// The best solution of another search that takes no more of anything than one that was run before.
    pub fn solve_again(&self, search: &Search, before: &Solution) -> Outcome<Option<Solution>> {
        let speeds = self.speeds()?;
        // Sums in another order may differ in the last digits.
        let at_most = |cost: f64| cost * (1.0 + 1e-9);
        Ok(search.solve(&Limits {
            size_bytes: self.size.map(|_| search.size_of(before)),
            memory: self.ram.map(|_| (at_most(search.memory_of(before, self.context_len)), self.context_len)),
            latency: self.latency_ns.map(|_| (at_most(search.latency_of(before, &speeds)), &speeds)),
        }))
    }

    /// Whether anything but the size of the file is asked for.
    pub fn is_of_a_device(&self) -> bool {
        self.ram.is_some() || self.latency_ns.is_some()
    }

    fn limits<'s>(&self, besides: Besides, rest_bytes: u64, speeds: &'s BTreeMap<DType, f64>) -> Limits<'s> {
        let time = |ns: f64| ns * TIME_MARGIN - besides.nanoseconds;
        Limits {
            size_bytes: self.size.map(|size| size.bytes.saturating_sub(rest_bytes)),
            memory: self.ram.map(|ram| (ram.bytes as f64 - besides.memory_bytes, self.context_len)),
            latency: self.latency_ns.map(|ns| (time(ns), speeds)),
        }
    }

    fn keeps(&self, figures: Figures) -> bool {
        self.uses(figures) <= 1.0
    }

    /// Part of the tighter of the budgets that is used.
    fn uses(&self, figures: Figures) -> f64 {
        let memory = self.ram.zip(figures.memory_bytes).map(|(ram, used)| used as f64 / ram.bytes as f64);
        let time = self.latency_ns.map(|ns| figures.ns_per_token / ns);
        memory.unwrap_or(0.0).max(time.unwrap_or(0.0))
    }

    fn impossible(&self, search: &Search, besides: Besides) -> String {
        let mut budgets = Vec::new();
        budgets.extend(self.size.map(|size| format!("--size {}", size.text)));
        budgets.extend(self.ram.map(|ram| format!("--ram {}", ram.text)));
        budgets.extend(self.latency_ns.map(|ns| format!("--latency {}ms", ns / 1e6)));
        let mut message = format!("no choice of types keeps within {}", budgets.join(" and "));
        if self.ram.is_some() {
            message.push_str(&format!(
                ": of the memory, {} go for other things than matrices and keys and values",
                human_bytes(besides.memory_bytes.max(0.0) as u64)
            ));
        } else {
            message.push_str(&format!(
                ": the smallest matrices take {}, and {:.2} ms of a token's time go for other things",
                human_bytes(search.smallest_bytes()),
                besides.nanoseconds / 1e6
            ));
        }
        message.push_str("; raise the budget, lower --context, or see --vocab-from and --prune");
        message
    }

    /// Of this device, or the other, measured before or now.
    fn speeds(&self) -> Outcome<BTreeMap<DType, f64>> {
        if self.latency_ns.is_none() {
            return Ok(BTreeMap::new());
        }
        if let Some(profile) = self.profile {
            return profile.speeds_at(self.n_threads).ok_or_else(|| {
                format!(
                    "the profile tells nothing of {} thread(s): make it on the device with \
                     edgeward probe --types --threads {} --json",
                    self.n_threads, self.n_threads
                )
                .into()
            });
        }
        let path = Store::open()?.profile_path();
        let mut profile = DeviceProfile::load(&path);
        if let Some(speeds) = profile.speeds_at(self.n_threads) {
            return Ok(speeds);
        }
        let speeds = profile.measure_types(self.n_threads, &search::TYPES);
        profile.save(&path)?;
        Ok(speeds)
    }

    /// Runs a hollow file.
    fn run(&self, solution: &Solution, compressor: &Compressor, beside: &Path) -> Outcome<Figures> {
        let hollow = Temporary::beside(beside, "hollow");
        let kv_type = Value::String(solution.kv_type.unwrap_or_default().name());
        compressor.write_hollow(&solution.assignment, &hollow.0, &[(KV_KEY, kv_type)])?;
        Ok(running::measure(&hollow.0, self.n_threads, self.context_len)?)
    }

    /// What is told of a result.
    pub fn record(&self, kv_type: Option<KvType>, figures: Figures) -> DeviceRecord {
        let here;
        let profile = match self.profile {
            Some(profile) => profile,
            None => {
                here = DeviceProfile::of_this_device();
                &here
            }
        };
        DeviceRecord {
            cpu: profile.cpu.clone(),
            arch: profile.arch.clone(),
            isa: profile.isa.clone(),
            n_threads: self.n_threads,
            context_len: self.context_len,
            kv_type: kv_type.unwrap_or_default().name().to_owned(),
            // What is measured is not known to more digits.
            ms_per_token: (figures.ns_per_token / 1e3).round() / 1e3,
            memory_bytes: figures.memory_bytes,
            is_predicted: self.profile.is_some(),
            budget_ms_per_token: self.latency_ns.map(|ns| ns / 1e6),
            budget_memory_bytes: self.ram.map(|ram| ram.bytes),
        }
    }
}

/// Threads of the device: those that were asked for, else all.
pub fn n_threads(asked: Option<u16>, profile: Option<&DeviceProfile>) -> usize {
    asked.map_or_else(|| profile.map_or_else(device::n_logical_cores, |p| p.n_logical_cores), usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ns) in
            [("4ms/token", 4e6), ("4ms", 4e6), ("0.5s", 5e8), ("250us/token", 2.5e5), ("1 ms", 1e6)]
        {
            assert_eq!(parse_latency(text), Ok(ns), "{text}");
        }
        for text in ["", "4", "ms", "-1ms", "0ms", "4 minutes", "NaNs", "1e99s"] {
            assert!(parse_latency(text).is_err(), "{text}");
        }
    }
}
