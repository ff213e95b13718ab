//! Steps of every instruction set against scalar code.
