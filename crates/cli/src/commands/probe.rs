//! `edgeward probe`: what this device is, and what it can do at most.

use edgeward_compress::search;

use crate::Outcome;
use crate::device::{self, DeviceProfile};
use crate::output::{self, Align, Table, print_line};
use crate::store::{Progress, Store, Verbosity, human_bytes};

/// Measure this device: cores, instruction sets, memory, bandwidth and peak arithmetic
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward probe
  edgeward probe --threads 1,2,4
  edgeward probe --json
  edgeward probe --types --json > gateway.json

The profile is kept in device.json beside the models; `bench` measures against it. With --types it serves
`edgeward compress --device` on another machine.")]
pub struct Args {
    /// Numbers of threads to measure with [default: 1 and as many as can run at once]
    #[arg(long, short, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// Measure, too, how fast matrices of each type are decoded with
    #[arg(long)]
    types: bool,
    /// Print the profile as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let progress = Progress::new(verbosity);
    let path = Store::open()?.profile_path();
    let mut profile = DeviceProfile::load(&path);
    let mut counts: Vec<usize> = args.threads.iter().map(|n| usize::from(*n)).collect();
    if counts.is_empty() {
        counts = vec![1, device::n_logical_cores()];
    }
    counts.dedup();
    for n_threads in counts {
        if n_threads > edgeward_kernels::pool::MAX_THREADS {
            return Err(
                format!("at most {} threads are supported", edgeward_kernels::pool::MAX_THREADS).into()
            );
        }
        progress.note(&format!("Measuring with {n_threads} thread(s)"));
        profile.measure(n_threads);
        if args.types {
            profile.measure_types(n_threads, &search::TYPES);
        }
    }
    profile.save(&path)?;
    if args.json {
        return output::print_json(&profile);
    }
    let physical = profile.n_physical_cores.map_or("unknown".to_owned(), |n| n.to_string());
    print_line(&format!(
        "processor          {} ({})",
        profile.cpu.as_deref().unwrap_or("unknown"),
        profile.arch
    ))?;
    print_line(&format!(
        "cores              {physical}, running {} threads at once",
        profile.n_logical_cores
    ))?;
    print_line(&format!("instruction sets   {}", profile.features.join(", ")))?;
    print_line(&format!("kernels in use     {} (of {})", profile.isa, profile.isas.join(", ")))?;
    if let Some(memory) = profile.memory {
        let (total, free) = (human_bytes(memory.total_bytes), human_bytes(memory.available_bytes));
        print_line(&format!("memory             {total}, {free} free"))?;
    }
    print_line("")?;
    let mut table = Table::new(&[
        ("THREADS", Align::Right),
        ("READ GB/S", Align::Right),
        ("INT8 GOPS", Align::Right),
        ("F32 GFLOPS", Align::Right),
    ]);
    for limits in &profile.limits {
        table.row(vec![
            limits.n_threads.to_string(),
            format!("{:.1}", limits.read_bytes_per_s / 1e9),
            format!("{:.0}", limits.int8_ops_per_s / 1e9),
            format!("{:.0}", limits.f32_ops_per_s / 1e9),
        ]);
    }
    table.print()?;
    if args.types {
        print_line("")?;
        let columns = [("THREADS", Align::Right), ("TYPE", Align::Left), ("BILLION WEIGHTS/S", Align::Right)];
        let mut table = Table::new(&columns);
        for speed in &profile.types {
            let rate = format!("{:.1}", 1.0 / speed.ns_per_weight);
            table.row(vec![speed.n_threads.to_string(), speed.dtype.clone(), rate]);
        }
        table.print()?;
    }
    Ok(())
}
