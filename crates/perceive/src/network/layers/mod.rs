//! How each operator becomes steps: shapes and types are checked, a kernel is chosen, weights are laid out.

pub mod conv;
pub mod pointwise;
pub mod pool;
pub mod softmax;
