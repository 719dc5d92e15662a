//! What calls do with VMs: complete a request, launch, follow, take down. Prints nothing and knows no option.

pub(crate) mod destroy;
pub(crate) mod follow;
pub(crate) mod launch;
pub(crate) mod probe;
pub(crate) mod resolve;
