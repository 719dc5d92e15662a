//! The parts of a control socket that the host program supplies.

use super::call::Call;
use crate::spec::TreeSpec;
use std::fmt;
use std::sync::Arc;

/// The functions that the host program adds to a control socket.
#[derive(Clone, Default)]
pub struct Hooks {
    pub(super) load: Option<Load>,
    pub(super) on_command: Option<OnCommand>,
}

pub(super) type Load = Arc<dyn Fn() -> Result<TreeSpec, String> + Send + Sync>;
pub(super) type OnCommand = Arc<dyn Fn(&Call) + Send + Sync>;

impl Hooks {
    /// Sets the function that reads the configuration anew, for `plan` and `reload`; `load` may block. Without it these
    /// two calls are refused.
    #[must_use]
    pub fn load(mut self, load: impl Fn() -> Result<TreeSpec, String> + Send + Sync + 'static) -> Self {
        self.load = Some(Arc::new(load));
        self
    }

    /// Sets the function that is told each call that changes the tree, before the call is carried out.
    #[must_use]
    pub fn on_command(mut self, on_command: impl Fn(&Call) + Send + Sync + 'static) -> Self {
        self.on_command = Some(Arc::new(on_command));
        self
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("load", &self.load.is_some()).finish_non_exhaustive()
    }
}
