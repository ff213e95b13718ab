//! The commands, one file each: its arguments, and the call of the library that does the work.

pub mod completions;
pub mod models;
pub mod pull;
pub mod rm;
