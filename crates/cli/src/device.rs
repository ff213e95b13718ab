//! This machine: what it has, and the profile of what it can do at most, measured once and kept.
//!
//! Memory and names come from Linux's `/proc` and `/sys` (Android has them too); elsewhere they are unknown, never
//! guessed. Limits are measured by the kernels' own instructions (`edgeward_kernels::probe`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edgeward_kernels::probe::{self, Limits};
use edgeward_kernels::{Activations, DType, Form, Isa, Linear, Matrix, Mode, PackedMatrix, Pool, linear};
use serde::{Deserialize, Serialize};

/// Read to measure bandwidth, bytes: several times the largest cache of common processors.
const PROBE_BYTES: usize = 512 << 20;
/// Of a matrix that a type's speed is measured with: more than common caches hold.
const TYPE_BYTES: usize = 64 << 20;
/// Its columns.
const TYPE_COLS: usize = 1024;
/// How long it is measured.
const TYPE_TIME: Duration = Duration::from_millis(250);
/// A profile is about a kilobyte.
const MAX_PROFILE_BYTES: u64 = 1 << 20;

/// Working memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it, or what our control group may use of it.
    pub total_bytes: u64,
    /// What can be had without swapping, now.
    pub available_bytes: u64,
}

/// The machine's memory, if the system tells.
pub fn memory() -> Option<Memory> {
    let machine = parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    // A container may use less than the machine has (cgroup v2; absent or "max" means no limit).
    let number =
        |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?.trim().parse().ok();
    Some(match (number("memory.max"), number("memory.current")) {
        (Some(max), Some(current)) => within_group(machine, max, current),
        _ => machine,
    })
}

fn within_group(machine: Memory, max_bytes: u64, used_bytes: u64) -> Memory {
    Memory {
        total_bytes: machine.total_bytes.min(max_bytes),
        available_bytes: machine.available_bytes.min(max_bytes.saturating_sub(used_bytes)),
    }
}

/// `MemTotal: 24684092 kB`, where kB are 1,024 bytes (proc_meminfo(5)).
fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total_bytes: field("MemTotal")?, available_bytes: field("MemAvailable")? })
}

/// What the processor is called.
fn cpu_name() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    // x86 has the first; boards with an Arm often the second, or only numbers.
    ["model name", "Model", "Hardware"].iter().find_map(|name| {
        let line = cpuinfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    })
}

/// Cores as such: two hardware threads of one core count once.
fn n_physical_cores() -> Option<usize> {
    let mut cores = BTreeSet::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let topology = entry.path().join("topology");
        let read = |file: &str| fs::read_to_string(topology.join(file)).ok();
        if let (Some(package), Some(core)) = (read("physical_package_id"), read("core_id")) {
            cores.insert((package, core));
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Instruction sets that matter to language models, of those that the processor has.
fn cpu_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    macro_rules! detect {
        ($is_detected:ident: $($name:tt)*) => {
            $(if std::arch::$is_detected!($name) {
                features.push($name);
            })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    detect!(is_x86_feature_detected: "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    detect!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2");
    features
}

/// What is known of a device. Kept as JSON, for `bench` and for whoever chooses a model for a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Processor family, as Rust calls it: "x86_64", "aarch64".
    pub arch: String,
    /// Cores; unknown where the system does not tell.
    pub n_physical_cores: Option<usize>,
    /// Threads that can run at once.
    pub n_logical_cores: usize,
    /// Instruction sets of the processor.
    pub features: Vec<String>,
    /// The one that our kernels use.
    pub isa: String,
    /// All that our kernels could use.
    pub isas: Vec<String>,
    /// Working memory when the profile was made.
    pub memory: Option<Memory>,
    /// Measured limits, one entry for each number of threads.
    pub limits: Vec<MeasuredLimits>,
    /// How fast matrices of each type are decoded with, for each number of threads that was measured.
    #[serde(default)]
    pub types: Vec<TypeSpeed>,
}

/// What a weight of a type takes of the time of a token, where it is read from memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeSpeed {
    /// Threads.
    pub n_threads: usize,
    /// The type's name.
    pub dtype: String,
    /// Nanoseconds.
    pub ns_per_weight: f64,
}

/// Limits at a number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredLimits {
    /// Threads.
    pub n_threads: usize,
    /// Bytes read from memory per second.
    pub read_bytes_per_s: f64,
    /// 8-bit multiplications and additions per second, each counting as one.
    pub int8_ops_per_s: f64,
    /// The same in 32-bit floating point.
    pub f32_ops_per_s: f64,
}

impl From<Limits> for MeasuredLimits {
    fn from(limits: Limits) -> MeasuredLimits {
        let Limits { n_threads, read_bytes_per_s, int8_ops_per_s, f32_ops_per_s } = limits;
        MeasuredLimits { n_threads, read_bytes_per_s, int8_ops_per_s, f32_ops_per_s }
    }
}

impl DeviceProfile {
    /// This device, nothing measured yet.
    pub fn of_this_device() -> DeviceProfile {
        DeviceProfile {
            cpu: cpu_name(),
            arch: std::env::consts::ARCH.to_owned(),
            n_physical_cores: n_physical_cores(),
            n_logical_cores: n_logical_cores(),
            features: cpu_features().into_iter().map(str::to_owned).collect(),
            isa: Isa::best().name().to_owned(),
            isas: Isa::available().iter().map(|isa| isa.name().to_owned()).collect(),
            memory: memory(),
            limits: Vec::new(),
            types: Vec::new(),
        }
    }

    /// The profile kept at `path`, if it is of this very device; else one with nothing measured.
    pub fn load(path: &Path) -> DeviceProfile {
        let fresh = DeviceProfile::of_this_device();
        let kept = fs::File::open(path)
            .and_then(|file| {
                let mut text = String::new();
                file.take(MAX_PROFILE_BYTES).read_to_string(&mut text).map(|_| text)
            })
            .ok()
            .and_then(|text| serde_json::from_str::<DeviceProfile>(&text).ok());
        match kept {
            // The disk may have moved to another machine, the program to another version with other kernels.
            Some(kept) if kept.identity() == fresh.identity() => {
                DeviceProfile { limits: kept.limits, types: kept.types, ..fresh }
            }
            _ => fresh,
        }
    }

    /// The profile of another device, in the file that `edgeward probe --json` printed there.
    pub fn of_another(path: &Path) -> Result<DeviceProfile, String> {
        let text = fs::File::open(path).and_then(|file| {
            let mut text = String::new();
            file.take(MAX_PROFILE_BYTES).read_to_string(&mut text).map(|_| text)
        });
        let text = text.map_err(|error| format!("could not read {}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| {
            format!("{} is no profile of `edgeward probe --types --json`: {error}", path.display())
        })
    }

    fn identity(&self) -> (&Option<String>, &str, usize, &[String], &str) {
        (&self.cpu, &self.arch, self.n_logical_cores, &self.features, &self.isa)
    }

    /// Keeps the profile at `path`.
    pub fn save(&self, path: &Path) -> Result<(), ProfileError> {
        let failed = |source| ProfileError { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let mut json = serde_json::to_vec_pretty(self).expect("a profile has only strings and numbers");
        json.push(b'\n');
        // Two processes may measure at once: each writes its own file, and the last one stays.
        let partial = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&partial, json).and_then(|()| fs::rename(&partial, path)).map_err(|source| {
            match fs::remove_file(&partial) {
                Ok(()) => failed(source),
                Err(error) if error.kind() == ErrorKind::NotFound => failed(source),
                Err(error) => failed(error),
            }
        })
    }

    /// The limits at `n_threads`, if they have been measured.
    pub fn limits_at(&self, n_threads: usize) -> Option<MeasuredLimits> {
        self.limits.iter().copied().find(|limits| limits.n_threads == n_threads)
    }

    /// Measures the limits at `n_threads`, which takes about a second, and keeps the best that was ever measured:
    /// other work on the machine can only make it seem slower than it is.
    pub fn measure(&mut self, n_threads: usize) -> MeasuredLimits {
        // A quarter of what is free is enough to measure, and little enough that nothing else is pushed out.
        let free_bytes = memory().map_or(u64::MAX, |memory| memory.available_bytes / 4);
        let buffer_bytes = usize::try_from(free_bytes).unwrap_or(usize::MAX).min(PROBE_BYTES);
        self.note(probe::measure(&mut Pool::new(n_threads), Isa::best(), buffer_bytes).into())
    }

    /// How fast matrices of each type are decoded with at `n_threads`, if that has been measured.
    pub fn speeds_at(&self, n_threads: usize) -> Option<BTreeMap<DType, f64>> {
        let of_these = self.types.iter().filter(|speed| speed.n_threads == n_threads);
        let known = |speed: &TypeSpeed| {
            let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == speed.dtype)?;
            (speed.ns_per_weight > 0.0).then_some((dtype, speed.ns_per_weight))
        };
        let speeds: BTreeMap<DType, f64> = of_these.filter_map(known).collect();
        (!speeds.is_empty()).then_some(speeds)
    }

    /// Measures how fast matrices of `types` are decoded with at `n_threads`, a third of a second for each. The best
    /// that was ever measured is kept, as by [`measure`](DeviceProfile::measure).
    pub fn measure_types(&mut self, n_threads: usize, types: &[DType]) -> BTreeMap<DType, f64> {
        let mut pool = Pool::new(n_threads);
        let old = self.speeds_at(n_threads).unwrap_or_default();
        self.types.retain(|speed| speed.n_threads != n_threads);
        let mut speeds = old.clone();
        for &dtype in types {
            let new = ns_per_weight(&mut pool, dtype);
            let best = old.get(&dtype).map_or(new, |old| old.min(new));
            speeds.insert(dtype, best);
        }
        let of_one = |(dtype, ns): (&DType, &f64)| TypeSpeed {
            n_threads,
            dtype: dtype.name().to_owned(),
            ns_per_weight: *ns,
        };
        self.types.extend(speeds.iter().map(of_one));
        speeds
    }

    fn note(&mut self, new: MeasuredLimits) -> MeasuredLimits {
        let best = match self.limits_at(new.n_threads) {
            None => new,
            Some(old) => MeasuredLimits {
                n_threads: new.n_threads,
                read_bytes_per_s: old.read_bytes_per_s.max(new.read_bytes_per_s),
                int8_ops_per_s: old.int8_ops_per_s.max(new.int8_ops_per_s),
                f32_ops_per_s: old.f32_ops_per_s.max(new.f32_ops_per_s),
            },
        };
        self.limits.retain(|kept| kept.n_threads != best.n_threads);
        self.limits.push(best);
        self.limits.sort_by_key(|limits| limits.n_threads);
        best
    }
}

/// Nanoseconds that a weight of a matrix takes which is larger than common caches and meets one token.
fn ns_per_weight(pool: &mut Pool, dtype: DType) -> f64 {
    let row_bytes = dtype.row_bytes(TYPE_COLS).expect("whole blocks");
    let n_rows = TYPE_BYTES / row_bytes;
    // What the weights are does not matter for speed.
    let packed = PackedMatrix::pack(dtype, n_rows, TYPE_COLS, &vec![0; n_rows * row_bytes]);
    let matrix = Matrix::Packed(packed.expect("the bytes are those of the shape"));
    let linear_map = Linear { matrix, bias: None };
    let isa = Isa::best();
    let mut input = Activations::default();
    input.fill(pool, isa, (1, TYPE_COLS), Form::Int8, |_, row| row.fill(1.0));
    let mut out = vec![0.0; n_rows];
    let mut best = f64::MAX;
    let start = Instant::now();
    while start.elapsed() < TYPE_TIME {
        let run = Instant::now();
        linear(pool, isa, &[&linear_map], &input, Mode::Store, &mut out);
        best = best.min(run.elapsed().as_secs_f64());
    }
    best * 1e9 / (n_rows * TYPE_COLS) as f64
}

/// The most memory that this process has had at once, if the system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Threads that can run at once.
pub fn n_logical_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// The profile could not be kept.
#[derive(Debug)]
pub struct ProfileError {
    path: PathBuf,
    source: std::io::Error,
}

impl std::fmt::Display for ProfileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "could not keep the device profile in {}: set EDGEWARD_HOME to a folder that can be written",
            self.path.display()
        )
    }
}

impl std::error::Error for ProfileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24684092 kB\nMemFree:        20546560 kB\nMemAvailable:   22864780 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!(memory, Memory { total_bytes: 24_684_092 << 10, available_bytes: 22_864_780 << 10 });
        for text in
            ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB", "MemTotal: 18446744073709551615 kB"]
        {
            assert_eq!(parse_meminfo(text), None, "{text}");
        }
        let group = within_group(memory, 1 << 30, 1 << 20);
        assert_eq!(group, Memory { total_bytes: 1 << 30, available_bytes: (1 << 30) - (1 << 20) });
        assert_eq!(within_group(memory, 1, 2).available_bytes, 0);
    }

    #[test]
    fn a_profile_is_kept_for_this_device_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/device.json");
        let mut profile = DeviceProfile::load(&path);
        assert!(profile.limits.is_empty());
        let limits =
            MeasuredLimits { n_threads: 3, read_bytes_per_s: 1.5, int8_ops_per_s: 2.5, f32_ops_per_s: 0.5 };
        profile.note(limits);
        profile.note(MeasuredLimits { read_bytes_per_s: 1.0, f32_ops_per_s: 0.25, ..limits });
        profile.save(&path).unwrap();
        let loaded = DeviceProfile::load(&path);
        assert_eq!(loaded.limits_at(3), Some(limits));
        assert_eq!(loaded.limits_at(1), None);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");

        profile.cpu = Some("another".into());
        profile.save(&path).unwrap();
        assert!(DeviceProfile::load(&path).limits.is_empty());
        fs::write(&path, "{").unwrap();
        assert!(DeviceProfile::load(&path).limits.is_empty());
    }
}
