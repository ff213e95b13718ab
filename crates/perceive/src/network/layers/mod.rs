//! How each operator becomes steps: shapes and types are checked, a kernel is chosen, weights are laid out.

pub mod choose;
pub mod conv;
pub mod convert;
pub mod elementwise;
pub mod matmul;
pub mod pointwise;
pub mod pool;
pub mod rearrange;
pub mod recurrent;
pub mod reduce;
pub mod softmax;
pub mod table;
