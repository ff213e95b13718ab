//! The commands, one file each: its arguments, and the call of the library that does the work.

pub mod bench;
pub mod completions;
pub mod compress;
pub mod eval;
pub mod fit;
pub mod hear;
pub mod inspect;
pub mod keys;
pub mod models;
pub mod net;
pub mod perplexity;
mod pictures;
pub mod probe;
pub mod pull;
pub mod rm;
pub mod run;
pub mod see;
pub mod serve;
pub mod tokenize;
pub mod watch;
