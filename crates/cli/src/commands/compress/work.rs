//! From a model of the right shapes to files: types searched for, matrices rounded, results checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_compress::certificate::{Candidate, Check, Round};
use edgeward_compress::compress::{Assignment, Compressor, Options, Step, WORK_VERSION};
use edgeward_compress::correct;
use edgeward_compress::eval::Teacher;
use edgeward_compress::rounding::Effort;
use edgeward_compress::search::{self, Measured, Search, Solution, Variant};
use edgeward_engine::{Engine, EngineOptions, KvType};
use edgeward_kernels::DType;
use edgeward_kernels::memory::give_back_freed;
use edgeward_model::Model;

use super::certify::{Report, certify};
use super::running::Figures;
use super::shaped::Shaped;
use super::temporary::Temporary;
use super::{Job, Outcome, Size, vocabulary};
use crate::resume::Resume;

/// Kept free for the certificate, for each tensor that it names, bytes.
const CERTIFICATE_BYTES_PER_TENSOR: u64 = 192;
/// Kept free for the rest of the certificate, bytes.
const CERTIFICATE_BYTES: u64 = 24 << 10;
/// Sizes that the certificate's plot shows.
const N_CANDIDATES: u64 = 24;

/// What one file is to be.
pub struct Request<'a> {
    pub output: PathBuf,
    /// At most; the device and the losses that were asked for are the same for all files.
    pub size: Option<&'a Size>,
}

/// A file that was asked for, made and checked.
pub struct Made<'a> {
    pub request: &'a Request<'a>,
    /// Without losses if types were not searched for.
    pub solution: Solution,
    pub check: Check,
    /// Nats: the measured divergence, and what having no more tokens costs.
    pub loss: f64,
    pub rounds: Vec<Round>,
    /// Of a device that is not here.
    pub predicted: Option<Figures>,
    /// What other sizes would have given.
    pub candidates: Vec<Candidate>,
}

/// What was measured of a shaped model, before anything is rounded.
pub struct Survey {
    pub measured: Vec<Measured>,
    /// All of the model, and what it has lost already.
    pub whole: Variant,
    /// Nats of that which no check sees: it knows the tokens that are left alone.
    vocabulary_loss: f64,
    /// Bytes of a file that are not matrices, its certificate among them.
    pub rest_bytes: u64,
    /// What other sizes would give.
    candidates: Vec<Candidate>,
}

/// The making of files from a model of their shape.
pub struct Work<'w, 'j> {
    job: &'w Job<'j>,
    pub shaped: &'w Shaped,
    pub compressor: Compressor<'w>,
    /// With what results are checked on, once it has read that.
    teacher: Option<Teacher>,
}

impl<'w, 'j> Work<'w, 'j> {
    pub fn new(
        job: &'w Job<'j>,
        shaped: &'w Shaped,
        watch: &'w mut dyn FnMut(Step),
    ) -> Outcome<Work<'w, 'j>> {
        let options = Options { n_threads: job.n_threads, effort: Effort::default() };
        let compressor = Compressor::new(&shaped.model, &shaped.windows, options, job.cancel, watch)?;
        Ok(Work { job, shaped, compressor, teacher: None })
    }

    /// Certifies the model's own file.
    pub fn take_as_it_is(&mut self) -> Outcome<Report> {
        self.shaped.rename(&self.job.args.output)?;
        self.seal(Assignment::default())
    }

    /// Rounds all matrices to one type.
    pub fn make_uniform(&mut self, dtype: DType) -> Outcome<Report> {
        let assignment = Assignment::uniform(&self.shaped.model, dtype);
        self.compressor.equalize()?;
        self.compressor.write(&assignment, &self.job.args.output, &self.shaped.key)?;
        self.seal(assignment)
    }

    /// What each choice costs, measured now or before. `vocabulary_loss` is what having no more tokens costs, nats.
    pub fn survey(&mut self, vocabulary_loss: f64) -> Outcome<Survey> {
        self.compressor.equalize()?;
        let key = &self.shaped.key;
        let what = format!("{WORK_VERSION} {:?}", search::TYPES);
        let mut resume = Resume::new("measure", &[key.clone(), what])?;
        let measured: Vec<Measured> = resume.load().unwrap_or_default();
        let mut saved = Ok(());
        let measured = self.compressor.measure(measured, &mut |measured| {
            saved = resume.save(&measured);
        })?;
        saved?;
        give_back_freed();
        let mut measured = if self.job.args.compatible { search::compatible(measured) } else { measured };
        // Only memory is a reason to keep keys and values in less.
        if self.job.args.ram.is_some() {
            let mut resume = Resume::new("measure-kv", std::slice::from_ref(key))?;
            let kv = match resume.load() {
                Some(kv) => kv,
                None => {
                    let kv = self.compressor.measure_kv()?;
                    resume.save(&kv)?;
                    kv
                }
            };
            measured.push(kv);
        }
        let whole = Variant { loss: self.shaped.pruning_loss() + vocabulary_loss, ..Variant::default() };
        let search = self.shaped.search(&measured, &whole)?;
        let rest_bytes = self.rest_bytes(&search)?;
        let candidates = candidates(&search, rest_bytes);
        Ok(Survey { measured, whole, vocabulary_loss, rest_bytes, candidates })
    }

    fn rest_bytes(&self, search: &Search) -> Outcome<u64> {
        let smallest = search.solve_sizes(&[search.smallest_bytes()]).pop().flatten();
        let smallest = smallest.ok_or("the model has no matrices")?.assignment;
        let n_tensors = smallest.0.len() as u64;
        Ok(self.compressor.file_bytes(&smallest)? - smallest.size_bytes(&self.shaped.model)
            + CERTIFICATE_BYTES
            + CERTIFICATE_BYTES_PER_TENSOR * n_tensors)
    }

    /// Makes the file that was asked for at `path`, and checks it.
    pub fn make<'r>(&mut self, request: &'r Request<'r>, path: &Path, survey: &Survey) -> Outcome<Made<'r>> {
        let (solution, predicted) = self.solve(request, survey)?;
        self.compressor.write(&solution.assignment, path, &self.shaped.key)?;
        let check = self.check(path, solution.kv_type)?;
        let candidates = survey.candidates.clone();
        let (loss, rounds) = (0.0, Vec::new());
        let mut made = Made { request, solution, check, loss, rounds, predicted, candidates };
        self.improve(&mut made, path, survey)?;
        made.loss = made.check.kl_divergence + survey.vocabulary_loss;
        Ok(made)
    }

    fn solve(&self, request: &Request, survey: &Survey) -> Outcome<(Solution, Option<Figures>)> {
        let search = self.shaped.search(&survey.measured, &survey.whole)?;
        if let Some(max_kl) = self.job.args.max_kl() {
            let solution = search.solve_loss(max_kl).ok_or_else(|| {
                format!("no choice of types loses only {max_kl} nats: take more, or give --size")
            })?;
            return Ok((solution, None));
        }
        let wish = self.job.wish();
        if wish.is_of_a_device() {
            let (solution, figures) =
                wish.solve(&search, &self.compressor, survey.rest_bytes, &request.output)?;
            return Ok((solution, self.job.profile.map(|_| figures)));
        }
        let size = request.size.ok_or("nothing was asked for")?;
        let solution = search.solve_sizes(&[size.bytes.saturating_sub(survey.rest_bytes)]).pop().flatten();
        let solution = solution.ok_or_else(|| {
            format!(
                "no choice of types fits into {}: the smallest takes {} bytes; raise --size",
                size.text,
                search.smallest_bytes() + survey.rest_bytes
            )
        })?;
        Ok((solution, None))
    }

    /// Where a file's loss is not what was expected, searches again with what is learnt from that, and keeps the better of
    /// the two files.
    fn improve(&mut self, made: &mut Made, path: &Path, survey: &Survey) -> Outcome<()> {
        let expected_kl = made.solution.loss() - survey.vocabulary_loss;
        if !correct::is_wrong(expected_kl, made.check.kl_divergence) {
            return Ok(());
        }
        let first = Round { expected_kl, kl_divergence: made.check.kl_divergence };
        let result = Model::load(path)?;
        let factors = self.compressor.factors(&made.solution, &result, &self.shaped.check.0)?;
        drop(result);
        let measured = correct::corrected(&survey.measured, &factors);
        let search = self.shaped.search(&measured, &survey.whole)?;
        let wish = self.job.wish();
        let solution = if wish.is_of_a_device() {
            wish.solve_again(&search, &made.solution)?
        } else {
            let of_size = made.request.size.map(|size| size.bytes.saturating_sub(survey.rest_bytes));
            let budget = of_size.unwrap_or(search.size_of(&made.solution));
            search.solve_sizes(&[budget]).pop().flatten()
        };
        let Some(solution) = solution.filter(|solution| solution.assignment != made.solution.assignment)
        else {
            return Ok(());
        };
        let file = Temporary::again_beside(path, "second");
        self.compressor.write(&solution.assignment, &file.0, &self.shaped.key)?;
        let check = self.check(&file.0, solution.kv_type)?;
        let expected_kl = solution.loss() - survey.vocabulary_loss;
        let second = Round { expected_kl, kl_divergence: check.kl_divergence };
        if second.kl_divergence < first.kl_divergence {
            file.rename(path)?;
            (made.solution, made.check) = (solution, check);
            made.rounds = vec![first, second];
        } else {
            made.rounds = vec![second, first];
        }
        Ok(())
    }

    /// Measures a file beside the teacher.
    fn check(&mut self, path: &Path, kv_type: Option<KvType>) -> Outcome<Check> {
        let cancel = self.job.cancel;
        if self.teacher.is_none() {
            give_back_freed();
            let mut teacher = self.new_teacher()?;
            let watch = self.compressor.watch();
            teacher.read(self.job.teacher, &self.shaped.check.0, cancel, &mut |n_done, n_all| {
                watch(Step { what: "reading what is held out", n_done, n_all });
            })?;
            self.teacher = Some(teacher);
        }
        give_back_freed();
        let mut result = result_engine(path, kv_type, self.job.n_threads)?;
        let teacher = self.teacher.as_mut().ok_or("there is no teacher")?;
        let (windows, is_held_out) = &self.shaped.check;
        let watch = self.compressor.watch();
        Ok(Check::measure(&mut result, teacher, (windows, *is_held_out), cancel, watch)?)
    }

    fn new_teacher(&self) -> Outcome<Teacher> {
        let engine = vocabulary::engine(self.job.teacher, self.job.n_threads)?;
        let vocab_size = self.shaped.model.config().vocab_size;
        Ok(Teacher::new(engine, self.job.tokenizer, &self.shaped.tokenizer, vocab_size)?)
    }

    /// Checks and certifies a file whose types were not searched for.
    fn seal(&mut self, assignment: Assignment) -> Outcome<Report> {
        let (losses, lost_before) = (BTreeMap::new(), self.shaped.pruning_loss());
        let solution = Solution { assignment, kv_type: None, losses, lost_before };
        let request = Request { output: self.job.args.output.clone(), size: None };
        let check = self.check(&request.output, None)?;
        // Certifying needs memory for both models.
        self.teacher = None;
        let (rounds, candidates) = (Vec::new(), Vec::new());
        let loss = check.kl_divergence;
        let made = Made { request: &request, solution, check, loss, rounds, predicted: None, candidates };
        certify(self.job, self.shaped, made, self.compressor.watch())
    }
}

/// What sizes from the smallest to the largest give.
fn candidates(search: &Search, rest_bytes: u64) -> Vec<Candidate> {
    let (smallest, largest) = (search.smallest_bytes(), search.largest_bytes());
    let budgets: Vec<u64> =
        (0..=N_CANDIDATES).map(|i| smallest + (largest - smallest) * i / N_CANDIDATES).collect();
    let candidate = |solution: Solution| Candidate {
        size_bytes: search.size_of(&solution) + rest_bytes,
        expected_kl: solution.loss(),
        left_out: None,
    };
    search.solve_sizes(&budgets).into_iter().flatten().map(candidate).collect()
}

/// An engine of a file that was made.
pub fn result_engine(path: &Path, kv_type: Option<KvType>, n_threads: usize) -> Outcome<Engine> {
    let kv_type = kv_type.unwrap_or_default();
    let options = EngineOptions { n_threads, kv_type, ..EngineOptions::default() };
    Ok(Engine::new(&Arc::new(Model::load(path)?), options)?)
}
