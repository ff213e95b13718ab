//! Which layers and tokens a file keeps: less of a model in more bits may lose less than all of it in fewer.
//!
//! A choice of layers and tokens, each at what leaving the others out was measured to cost, is a variant. The knapsack is
//! solved for every variant, and the file is made of the best. Where one of another depth is expected to be about as good,
//! both are made, and the better one stays.
//!
//! Layers go in a measured order ([`Depth`]), one more as long as that could pay: a layer in its coarsest types is nearer to
//! what it was than none at all.

use std::path::Path;

use edgeward_compress::certificate::{Candidate, LeftOut};
use edgeward_compress::compress::Step;
use edgeward_compress::correct::TOLERANCE;
use edgeward_compress::prune::{Depth, Goal};
use edgeward_compress::search::{Solution, Variant, coarsest_losses};
use edgeward_compress::vocabulary::Limit;

use super::budget::Besides;
use super::certify::{Report, certify};
use super::shaped::Shaped;
use super::temporary::Temporary;
use super::vocabulary::Vocabulary;
use super::work::{Made, Request, Survey, Work};
use super::{Job, Outcome, Size};
use crate::resume::Resume;

/// One of so many layers may go: with fewer left, nobody would call it the same model.
const LAYERS_BY_DROPPED: usize = 3;

/// Makes and certifies all files that were asked for, of what `shaped` has or less.
pub fn make_all(job: &Job, shaped: &Shaped, watch: &mut dyn FnMut(Step)) -> Outcome<Vec<Report>> {
    let requests = requests(job);
    let vocabularies = vocabularies(job, watch)?;
    let own_tokens = shaped.kept.as_ref().map(|kept| kept.ids.len());
    let own = vocabularies.iter().copied().find(|vocabulary| Some(vocabulary.n_tokens) == own_tokens);
    let mut work = Work::new(job, shaped, watch)?;
    let survey = work.survey(own.map_or(0.0, |own| own.loss))?;
    let besides = besides(job, &work, &survey)?;
    let planner = Planner { job, shaped, survey: &survey, requests: &requests, vocabularies, own, besides };
    let tried = planner.try_all(&mut work)?;
    let mut reports = Vec::new();
    for idx in 0..requests.len() {
        reports.push(planner.make(idx, &tried, &mut work)?);
    }
    Ok(reports)
}

/// The files that were asked for.
fn requests<'a>(job: &Job<'a>) -> Vec<Request<'a>> {
    let Job { args, .. } = *job;
    let output = &args.output;
    match &args.size[..] {
        [] => vec![Request { output: output.clone(), size: None }],
        [size] => vec![Request { output: output.clone(), size: Some(size) }],
        sizes => {
            let stem = output.file_stem().unwrap_or_default().to_string_lossy();
            let path = |size: &Size| output.with_file_name(format!("{stem}-{}.gguf", size.text));
            sizes.iter().map(|size| Request { output: path(size), size: Some(size) }).collect()
        }
    }
}

/// Those to choose from: none unless a vocabulary of any size was asked for.
fn vocabularies(job: &Job, watch: &mut dyn FnMut(Step)) -> Outcome<Vec<Vocabulary>> {
    match &job.trimming {
        Some(trimming) if job.args.vocab_size.is_none() && job.goal().is_none() => {
            trimming.choices(job, watch)
        }
        _ => Ok(Vec::new()),
    }
}

/// What the model takes of a device besides its matrices, if a device is asked about and the model fits there at all.
fn besides(job: &Job, work: &Work, survey: &Survey) -> Outcome<Option<Besides>> {
    let wish = job.wish();
    if !wish.is_of_a_device() {
        return Ok(None);
    }
    let search = work.shaped.search(&survey.measured, &survey.whole)?;
    wish.besides(&search, &work.compressor, survey.rest_bytes, &job.args.output)
}

/// A variant, and what is expected of its best file for each request.
struct Tried {
    /// In the order in which they go.
    dropped_layers: Vec<usize>,
    vocabulary: Option<Vocabulary>,
    expected: Vec<Option<Candidate>>,
}

struct Planner<'a, 'j> {
    job: &'a Job<'j>,
    shaped: &'a Shaped,
    survey: &'a Survey,
    requests: &'a [Request<'j>],
    /// To choose from, and that of `shaped`.
    vocabularies: Vec<Vocabulary>,
    own: Option<Vocabulary>,
    /// For a device.
    besides: Option<Besides>,
}

impl<'j> Planner<'_, 'j> {
    /// Tries all variants that could be the best of any request.
    fn try_all(&self, work: &mut Work<'_, 'j>) -> Outcome<Vec<Tried>> {
        let mut tried = self.try_without(&[], 0.0)?;
        let mut resume = Resume::new("depth", std::slice::from_ref(&self.shaped.key))?;
        let mut depth: Depth = resume.load().unwrap_or_default();
        let max_dropped = self.max_dropped(work);
        for n_dropped in 1..=max_dropped {
            if depth.layers.len() < n_dropped {
                if !self.may_pay(&depth, max_dropped, &tried)? {
                    break;
                }
                work.compressor.deepen(&mut depth)?;
                resume.save(&depth)?;
            }
            tried.extend(self.try_without(&depth.layers[..n_dropped], depth.losses[n_dropped - 1])?);
        }
        Ok(tried)
    }

    fn max_dropped(&self, work: &Work) -> usize {
        // Whoever says what goes has chosen.
        let is_chosen = self.job.args.prune.is_some() || self.job.args.drop_layers.is_some();
        let is_fixed = is_chosen || !work.compressor.can_drop(1);
        if is_fixed { 0 } else { self.shaped.model.config().n_layers / LAYERS_BY_DROPPED }
    }

    /// Every vocabulary without some layers, whose loss costs the model `loss`.
    fn try_without(&self, dropped_layers: &[usize], loss: f64) -> Outcome<Vec<Tried>> {
        let vocabularies = self.vocabularies.iter().copied().map(Some);
        let vocabularies: Vec<_> =
            if self.vocabularies.is_empty() { vec![None] } else { vocabularies.collect() };
        let one = |vocabulary: Option<Vocabulary>| {
            let dropped_layers = dropped_layers.to_vec();
            let variant = Variant {
                dropped_layers: dropped_layers.clone(),
                n_tokens: vocabulary.map(|vocabulary| vocabulary.n_tokens),
                loss: self.shaped.pruning_loss()
                    + loss
                    + vocabulary.map_or(0.0, |vocabulary| vocabulary.loss),
            };
            Ok(Tried { dropped_layers, vocabulary, expected: self.expect(&variant)? })
        };
        vocabularies.into_iter().map(one).collect()
    }

    /// The best that each request may expect of a variant.
    fn expect(&self, variant: &Variant) -> Outcome<Vec<Option<Candidate>>> {
        let Survey { measured, rest_bytes, .. } = self.survey;
        let search = self.shaped.search(measured, variant)?;
        let wish = self.job.wish();
        let solutions = if let Some(max_kl) = self.job.args.max_kl() {
            vec![search.solve_loss(max_kl)]
        } else if wish.is_of_a_device() {
            vec![match self.besides {
                Some(besides) => wish.solve_with(&search, besides, *rest_bytes)?,
                None => None,
            }]
        } else {
            let sizes = self.requests.iter().filter_map(|request| request.size);
            let budgets: Vec<u64> = sizes.map(|size| size.bytes.saturating_sub(*rest_bytes)).collect();
            search.solve_sizes(&budgets)
        };
        let left_out = LeftOut { n_layers: variant.dropped_layers.len(), n_tokens_kept: variant.n_tokens };
        let candidate = |solution: Solution| Candidate {
            size_bytes: search.size_of(&solution) + rest_bytes,
            expected_kl: solution.loss(),
            left_out: Some(left_out),
        };
        Ok(solutions.into_iter().map(|solution| solution.map(candidate)).collect())
    }

    /// Whether a request could be served better with one layer less than `depth` goes without.
    fn may_pay(&self, depth: &Depth, max_dropped: usize, tried: &[Tried]) -> Outcome<bool> {
        let Survey { measured, .. } = self.survey;
        let coarsest = coarsest_losses(&self.shaped.model, measured);
        let left = (0..coarsest.len()).filter(|layer_idx| !depth.layers.contains(layer_idx));
        let Some(next) = left.min_by(|a, b| coarsest[*a].total_cmp(&coarsest[*b])) else { return Ok(false) };
        let loss = depth.losses.last().copied().unwrap_or(0.0) + coarsest[next];
        let hoped = self.try_without(&[&depth.layers[..], &[next]].concat(), loss)?;
        let smallest_bytes = self.smallest_bytes(max_dropped)?;
        let is_better = |idx: usize| match (self.ranked(idx, tried).first(), self.ranked(idx, &hoped).first())
        {
            (Some((_, best)), Some((_, hoped))) => self.cost(hoped) < self.cost(best),
            // Some need several layers less to be possible at all.
            (None, _) => self.requests[idx].size.is_some_and(|size| smallest_bytes <= size.bytes),
            (Some(_), None) => false,
        };
        Ok((0..self.requests.len()).any(is_better))
    }

    /// Bytes of the smallest file that a search may come to.
    fn smallest_bytes(&self, max_dropped: usize) -> Outcome<u64> {
        let n_tokens = self.vocabularies.iter().map(|vocabulary| vocabulary.n_tokens).min();
        let smallest = Variant { dropped_layers: (0..max_dropped).collect(), n_tokens, loss: 0.0 };
        let search = self.shaped.search(&self.survey.measured, &smallest)?;
        Ok(search.smallest_bytes() + self.survey.rest_bytes)
    }

    /// What is to be small.
    fn cost(&self, candidate: &Candidate) -> f64 {
        match self.job.args.max_kl() {
            Some(_) => candidate.size_bytes as f64,
            None => candidate.expected_kl,
        }
    }

    /// The variants that serve a request, the best first.
    fn ranked<'t>(&self, idx: usize, tried: &'t [Tried]) -> Vec<(&'t Tried, Candidate)> {
        let expected = |tried: &'t Tried| Some((tried, tried.expected[idx]?));
        let mut ranked: Vec<(&Tried, Candidate)> = tried.iter().filter_map(expected).collect();
        ranked.sort_by(|(_, a), (_, b)| self.cost(a).total_cmp(&self.cost(b)));
        ranked
    }

    /// Makes the file of a request, of the best variant, or of the best two.
    fn make(&self, idx: usize, tried: &[Tried], work: &mut Work<'_, 'j>) -> Outcome<Report> {
        let request = &self.requests[idx];
        let ranked = self.ranked(idx, tried);
        let Some((best, expected)) = ranked.first() else {
            // There is none; what fails to make one says why.
            let made = work.make(request, &request.output, self.survey)?;
            return certify(self.job, self.shaped, made, work.compressor.watch());
        };
        let (mut made, mut shaped) = self.make_variant(best, request, &request.output, work)?;
        let is_as_good = |(tried, candidate): &&(&Tried, Candidate)| {
            let is_other = tried.dropped_layers.len() != best.dropped_layers.len();
            is_other && candidate.expected_kl < expected.expected_kl * TOLERANCE
        };
        let second = ranked.iter().find(is_as_good).filter(|_| self.job.args.max_kl().is_none());
        if let Some((second, _)) = second {
            let path = Temporary::again_beside(&request.output, "other");
            let (other, other_shaped) = self.make_variant(second, request, &path.0, work)?;
            if other.loss < made.loss {
                path.rename(&request.output)?;
                (made, shaped) = (other, other_shaped);
            }
        }
        made.candidates.extend(ranked.iter().map(|(_, candidate)| *candidate));
        certify(self.job, shaped.as_ref().unwrap_or(self.shaped), made, work.compressor.watch())
    }

    /// Makes a file at `path` of what a variant leaves, and that shape, unless it is the one that all began with.
    fn make_variant<'r>(
        &self,
        variant: &Tried,
        request: &'r Request<'j>,
        path: &Path,
        work: &mut Work<'_, 'j>,
    ) -> Outcome<(Made<'r>, Option<Shaped>)> {
        let Tried { dropped_layers, vocabulary, .. } = variant;
        if dropped_layers.is_empty() && *vocabulary == self.own {
            return Ok((work.make(request, path, self.survey)?, None));
        }
        let goal = (!dropped_layers.is_empty()).then(|| Goal::These(dropped_layers.clone()));
        let limit = vocabulary.map(|vocabulary| Limit::MissingShare(vocabulary.missing_share));
        let watch = work.compressor.watch();
        let shaped = Shaped::new(self.job, goal, limit.or(self.job.vocabulary_limit()), watch)?;
        let mut work = Work::new(self.job, &shaped, watch)?;
        let survey = work.survey(vocabulary.map_or(0.0, |vocabulary| vocabulary.loss))?;
        let made = work.make(request, path, &survey)?;
        drop(work);
        Ok((made, Some(shaped)))
    }
}
