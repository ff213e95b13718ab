//! From a model of the right shapes to files: types searched for, matrices rounded, results checked and certified.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_compress::certificate::{
    self, Candidate, Certificate, Check, KV_KEY, PruningRecord, Round, TensorRecord, VocabularyRecord,
};
use edgeward_compress::compress::{Assignment, Compressor, Options, Step, add_metadata};
use edgeward_compress::correct;
use edgeward_compress::eval::{Teacher, Windows};
use edgeward_compress::rounding::Effort;
use edgeward_compress::search::{self, Measured, Search, Solution};
use edgeward_compress::vocabulary::Kept;
use edgeward_engine::{Engine, EngineOptions, KvType};
use edgeward_kernels::memory::give_back_freed;
use edgeward_model::Model;
use edgeward_model::gguf::Value;
use edgeward_model::tokenizer::Tokenizer;
use serde::Serialize;

use super::budget::Wish;
use super::running::{self, Figures};
use super::samples::Asked;
use super::temporary::Temporary;
use super::{Job, Outcome, Size, vocabulary};
use crate::resume::Resume;

/// Kept free for the certificate, for each tensor that it names, bytes.
const CERTIFICATE_BYTES_PER_TENSOR: u64 = 192;
/// Kept free for the rest of the certificate, bytes.
const CERTIFICATE_BYTES: u64 = 24 << 10;
/// Sizes that the certificate's plot shows.
const N_CANDIDATES: u64 = 24;

/// What is told of a file.
#[derive(Serialize)]
pub struct Report {
    pub output: PathBuf,
    pub size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_kl: Option<f64>,
    pub kl_divergence: f64,
    pub kl_divergence_stderr: f64,
    pub top1_agreement: f64,
    pub perplexity: f64,
    /// Milliseconds.
    pub ms_per_token: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyRecord>,
}

/// A job whose model has the shapes that its files will have.
pub struct Work<'a> {
    pub job: &'a Job<'a>,
    pub model: &'a Arc<Model>,
    pub tokenizer: &'a Tokenizer,
    pub pruned: Option<&'a PruningRecord>,
    pub kept: Option<&'a Kept>,
    /// What measurements and rounded matrices depend on.
    pub key: &'a str,
    pub windows: &'a Windows,
    pub check: (&'a Windows, bool),
}

/// One file to be made.
pub struct Target<'a> {
    output: PathBuf,
    /// As it was written, and bytes.
    size: Option<&'a Size>,
    /// Without losses if types were not searched for.
    solution: Solution,
    /// Of a device that is not here.
    predicted: Option<Figures>,
}

impl Target<'_> {
    /// Without a search.
    pub fn new(output: &Path, assignment: Assignment) -> Self {
        let solution = Solution { assignment, kv_type: None, losses: BTreeMap::new() };
        Target { output: output.to_owned(), size: None, solution, predicted: None }
    }

    fn expected_kl(&self) -> Option<f64> {
        (!self.solution.losses.is_empty()).then(|| self.solution.loss())
    }
}

impl<'a> Work<'a> {
    /// Makes and certifies all files that were asked for.
    pub fn make_all(&self, watch: &mut dyn FnMut(Step)) -> Outcome<Vec<Report>> {
        let Job { args, n_threads, cancel, .. } = *self.job;
        let options = Options { n_threads, effort: Effort::default() };
        let mut compressor = Compressor::new(self.model, self.windows, options, cancel, watch)?;
        if let Some(dtype) = args.dtype {
            let target = Target::new(&args.output, Assignment::uniform(self.model, dtype.into()));
            compressor.write(&target.solution.assignment, &target.output, self.key)?;
            return Ok(vec![self.seal(&target, &[], compressor.watch())?]);
        }
        let measured = self.measure(&mut compressor)?;
        let search = Search::new(self.model, &measured)
            .ok_or("the measurements that were kept are of another model: remove them")?;
        let rest = self.rest_bytes(&compressor, &search)?;
        let targets = self.targets(&search, &compressor, rest)?;
        let candidates = self.candidates(&search, rest);
        let mut reports = Vec::new();
        let mut teacher = None;
        for mut target in targets {
            compressor.write(&target.solution.assignment, &target.output, self.key)?;
            let teacher = match &mut teacher {
                Some(teacher) => teacher,
                none => none.insert(self.reader(compressor.watch())?),
            };
            let check = self.check(&target.output, target.solution.kv_type, teacher, compressor.watch())?;
            let (check, rounds) =
                self.improve(&mut target, check, teacher, (&measured, rest), &mut compressor)?;
            reports.push(self.certify(&target, check, rounds, &candidates, compressor.watch())?);
        }
        Ok(reports)
    }

    /// What each choice costs, measured now or before.
    fn measure(&self, compressor: &mut Compressor) -> Outcome<Vec<Measured>> {
        let args = self.job.args;
        let mut resume = Resume::new("measure", &[self.key.to_owned(), format!("{:?}", search::TYPES)])?;
        let measured: Vec<Measured> = resume.load().unwrap_or_default();
        let mut saved = Ok(());
        let measured = compressor.measure(measured, &mut |measured| {
            saved = resume.save(&measured);
        })?;
        saved?;
        give_back_freed();
        let mut measured = if args.compatible { search::compatible(measured) } else { measured };
        // Only memory is a reason to keep keys and values in less.
        if args.ram.is_some() {
            let mut resume = Resume::new("measure-kv", &[self.key.to_owned()])?;
            let kv = match resume.load() {
                Some(kv) => kv,
                None => {
                    let kv = compressor.measure_kv()?;
                    resume.save(&kv)?;
                    kv
                }
            };
            measured.push(kv);
        }
        Ok(measured)
    }

    /// Bytes of a file that are not matrices, its certificate among them.
    fn rest_bytes(&self, compressor: &Compressor, search: &Search) -> Outcome<u64> {
        let smallest = search.solve_sizes(&[search.smallest_bytes()]).pop().flatten();
        let smallest = smallest.ok_or("the model has no matrices")?.assignment;
        let n_tensors = smallest.0.len() as u64;
        Ok(compressor.file_bytes(&smallest)? - smallest.size_bytes(self.model)
            + CERTIFICATE_BYTES
            + CERTIFICATE_BYTES_PER_TENSOR * n_tensors)
    }

    /// What is asked of a device.
    fn wish(&self) -> Wish<'_> {
        let args = self.job.args;
        Wish {
            size: args.size.first(),
            ram: args.ram.as_ref(),
            latency_ns: args.latency,
            context_len: args.context as usize,
            n_threads: self.job.device_threads,
            profile: self.job.profile,
        }
    }

    /// The files to make.
    fn targets(&self, search: &Search, compressor: &Compressor, rest: u64) -> Outcome<Vec<Target<'a>>> {
        let args = self.job.args;
        if let Some(max_kl) = args.max_kl.or(args.preset.map(|preset| preset.max_kl())) {
            let solution = search.solve_loss(max_kl).ok_or_else(|| {
                format!("no choice of types loses only {max_kl} nats: take more, or give --size")
            })?;
            return Ok(vec![Target { output: args.output.clone(), size: None, solution, predicted: None }]);
        }
        let wish = self.wish();
        if wish.is_of_a_device() {
            let (solution, figures) = wish.solve(search, compressor, rest, &args.output)?;
            let predicted = self.job.profile.map(|_| figures);
            let (output, size) = (args.output.clone(), args.size.first());
            return Ok(vec![Target { output, size, solution, predicted }]);
        }
        let budgets: Vec<u64> = args.size.iter().map(|size| size.bytes.saturating_sub(rest)).collect();
        let solutions = search.solve_sizes(&budgets);
        let target = |(size, solution): (&'a Size, Option<Solution>)| {
            let solution = solution.ok_or_else(|| {
                format!(
                    "no choice of types fits into {}: the smallest takes {} bytes; raise --size",
                    size.text,
                    search.smallest_bytes() + rest
                )
            })?;
            let output = if args.size.len() == 1 {
                args.output.clone()
            } else {
                let stem = args.output.file_stem().unwrap_or_default().to_string_lossy();
                args.output.with_file_name(format!("{stem}-{}.gguf", size.text))
            };
            Ok(Target { output, size: Some(size), solution, predicted: None })
        };
        args.size.iter().zip(solutions).map(target).collect()
    }

    /// What other sizes would have given.
    fn candidates(&self, search: &Search, rest: u64) -> Vec<Candidate> {
        let (smallest, largest) = (search.smallest_bytes(), search.largest_bytes());
        let budgets: Vec<u64> =
            (0..=N_CANDIDATES).map(|i| smallest + (largest - smallest) * i / N_CANDIDATES).collect();
        let candidate = |solution: Solution| Candidate {
            size_bytes: solution.assignment.size_bytes(self.model) + rest,
            expected_kl: solution.loss(),
        };
        search.solve_sizes(&budgets).into_iter().flatten().map(candidate).collect()
    }

    /// Where a file's loss is not what was expected, searches again with what is learnt from that. The better of the two
    /// files stays; its check, and both searches, are what comes back.
    fn improve(
        &self,
        target: &mut Target,
        check: Check,
        teacher: &mut Teacher,
        (measured, rest): (&[Measured], u64),
        compressor: &mut Compressor,
    ) -> Outcome<(Check, Vec<Round>)> {
        let expected_kl = target.expected_kl().unwrap_or(0.0);
        if !correct::is_wrong(expected_kl, check.kl_divergence) {
            return Ok((check, Vec::new()));
        }
        let first = Round { expected_kl, kl_divergence: check.kl_divergence };
        let result = Model::load(&target.output)?;
        let factors = compressor.factors(&target.solution, &result, self.check.0)?;
        drop(result);
        let measured = correct::corrected(measured, &factors);
        let search = Search::new(self.model, &measured).ok_or("the measurements are of another model")?;
        let wish = self.wish();
        let solution = if wish.is_of_a_device() {
            wish.solve_again(&search, &target.solution)?
        } else {
            let of_size = target.size.map(|size| size.bytes.saturating_sub(rest));
            let budget = of_size.unwrap_or(target.solution.assignment.size_bytes(self.model));
            search.solve_sizes(&[budget]).pop().flatten()
        };
        let Some(solution) = solution.filter(|solution| solution.assignment != target.solution.assignment)
        else {
            return Ok((check, Vec::new()));
        };
        let path = Temporary::beside(&target.output, "second");
        compressor.write(&solution.assignment, &path.0, self.key)?;
        let second_check = self.check(&path.0, solution.kv_type, teacher, compressor.watch())?;
        let second = Round { expected_kl: solution.loss(), kl_divergence: second_check.kl_divergence };
        if second.kl_divergence >= first.kl_divergence {
            return Ok((check, vec![second, first]));
        }
        fs::rename(&path.0, &target.output)
            .map_err(|error| format!("could not write {}: {error}", target.output.display()))?;
        target.solution = solution;
        Ok((second_check, vec![first, second]))
    }

    /// Measures a file beside the teacher.
    fn check(
        &self,
        path: &Path,
        kv_type: Option<KvType>,
        teacher: &mut Teacher,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Check> {
        give_back_freed();
        let mut result = self.result(path, kv_type)?;
        Ok(Check::measure(&mut result, teacher, self.check, self.job.cancel, watch)?)
    }

    fn result(&self, path: &Path, kv_type: Option<KvType>) -> Outcome<Engine> {
        let options = EngineOptions {
            n_threads: self.job.n_threads,
            kv_type: kv_type.unwrap_or_default(),
            ..EngineOptions::default()
        };
        Ok(Engine::new(&Arc::new(Model::load(path)?), options)?)
    }

    /// The teacher, which has read what results are checked on.
    fn reader(&self, watch: &mut dyn FnMut(Step)) -> Outcome<Teacher> {
        give_back_freed();
        let mut teacher = self.teacher(self.model.config().vocab_size)?;
        teacher.read(self.job.teacher, self.check.0, self.job.cancel, &mut |n_done, n_all| {
            watch(Step { what: "reading what is held out", n_done, n_all });
        })?;
        Ok(teacher)
    }

    fn teacher(&self, vocab_size: usize) -> Outcome<Teacher> {
        let engine = vocabulary::engine(self.job.teacher, self.job.n_threads)?;
        Ok(Teacher::new(engine, self.job.tokenizer, self.tokenizer, vocab_size)?)
    }

    /// Checks a file and certifies it.
    pub fn seal(
        &self,
        target: &Target,
        candidates: &[Candidate],
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Report> {
        let mut teacher = self.reader(watch)?;
        let check = self.check(&target.output, target.solution.kv_type, &mut teacher, watch)?;
        drop(teacher);
        self.certify(target, check, Vec::new(), candidates, watch)
    }

    /// Puts the certificate into a file and beside it.
    fn certify(
        &self,
        target: &Target,
        check: Check,
        rounds: Vec<Round>,
        candidates: &[Candidate],
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Report> {
        let Job { args, cancel, .. } = *self.job;
        let path = &target.output;
        if let Some(kv_type) = target.solution.kv_type {
            add_metadata(path, &[(KV_KEY, Value::String(kv_type.name()))])?;
        }
        let vocabulary = match (&self.job.trimming, self.kept) {
            (Some(trimming), Some(kept)) => {
                let mut result = self.result(path, target.solution.kv_type)?;
                let mut teacher = self.teacher(result.config().vocab_size)?;
                let (result, teacher) =
                    ((&mut result, self.tokenizer), (&mut teacher.engine, self.job.tokenizer));
                Some(trimming.certify(kept, result, teacher, cancel, watch)?)
            }
            _ => None,
        };
        let model = Arc::new(Model::load(path)?);
        let asked = |model, tokenizer, kv_type: Option<KvType>| Asked {
            model,
            tokenizer,
            kv_type: kv_type.unwrap_or_default(),
        };
        let (tasks, answers) = self.job.samples.ask(
            &asked(self.job.teacher, self.job.tokenizer, None),
            &asked(&model, self.tokenizer, target.solution.kv_type),
            cancel,
            watch,
        )?;
        drop(model);
        let figures = match target.predicted {
            Some(figures) => figures,
            None => running::measure(path, self.job.device_threads, args.context as usize)?,
        };
        let device = self.wish().record(target.solution.kv_type, figures);
        let tensors = target.solution.assignment.0.iter().filter_map(|(slot, dtype)| {
            let tensor = self.model.tensor(*slot)?;
            Some(TensorRecord {
                name: tensor.name.to_owned(),
                dtype: dtype.name().to_owned(),
                size_bytes: (dtype.row_bytes(tensor.n_cols)? * tensor.n_rows) as u64,
                expected_kl: target.solution.losses.get(tensor.name).copied(),
            })
        });
        let budget_bytes = target.size.map(|size| size.bytes);
        let expected_kl = target.expected_kl();
        let certificate = Certificate {
            version: certificate::VERSION,
            made_by: format!("edgeward {}", env!("CARGO_PKG_VERSION")),
            command: self.job.command(budget_bytes, path),
            teacher: self.job.ids.0.clone(),
            calibration: self.job.ids.1.clone(),
            window_len: self.windows.window_len(),
            n_calibration_windows: self.windows.len(),
            size_bytes: fs::metadata(path)?.len(),
            budget_bytes,
            expected_kl,
            rounds,
            check,
            device: Some(device),
            tasks,
            answers,
            pruning: self.pruned.cloned(),
            vocabulary: vocabulary.clone(),
            tensors: tensors.collect(),
            candidates: candidates.to_vec(),
        };
        let json = certificate.to_json();
        add_metadata(path, &[(certificate::KEY, Value::String(&json))])?;
        write(&path.with_extension("certificate.json"), &json)?;
        write(&path.with_extension("certificate.html"), &certificate.to_html())?;
        Ok(Report {
            output: path.clone(),
            size_bytes: fs::metadata(path)?.len(),
            budget_bytes,
            expected_kl,
            kl_divergence: check.kl_divergence,
            kl_divergence_stderr: check.kl_divergence_stderr,
            top1_agreement: check.top1_agreement,
            perplexity: check.perplexity,
            ms_per_token: figures.ns_per_token / 1e6,
            memory_bytes: figures.memory_bytes,
            pruning: self.pruned.cloned(),
            vocabulary,
        })
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("could not write {}: {error}", path.display()))
}
