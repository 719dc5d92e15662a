//! What calls do with VMs: completes a request, launches, follows, takes down. Prints nothing.

pub mod destroy;
pub mod follow;
pub mod launch;
pub mod probe;
pub mod resolve;
