//! The Landlock rules of a jail: they say again, for the files of the plan, what its root already says, and hold when
//! something is wrong with the root.

use crate::layer::Standing;
use crate::plan::{Access, Bind, Network, PROCESSES, Plan};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

/// The newest rules that we know: a kernel that knows fewer of them enforces those.
const NEWEST: ABI = ABI::V7;

/// Restricts this process. `in_root` says whether it is in the root of the plan, in which files have other paths.
pub(crate) fn restrict(plan: &Plan, in_root: bool) -> Result<Standing, String> {
    if plan.binds.iter().any(|bind| bind.access == Access::Serve) && knows_no_moves() {
        let why = "this kernel's Landlock lets no file be moved to another directory (before Linux 5.19)";
        return Ok(Standing::LeftOut { why: why.into() });
    }
    let status = apply(plan, in_root).map_err(|e| e.to_string())?;
    match status.landlock {
        LandlockStatus::NotImplemented => {
            Err("this kernel has no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK)".into())
        }
        LandlockStatus::NotEnabled => {
            Err("Landlock is switched off; add landlock to the kernel's parameter lsm=".into())
        }
        LandlockStatus::Available { effective_abi, .. } => {
            Ok(Standing::covering(covered(effective_abi, plan)))
        }
    }
}

/// Returns whether the kernel's rules are those of the first version, which forbid to move a file to another directory,
/// whatever they allow.
fn knows_no_moves() -> bool {
    let knows = |access: AccessFs| {
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(access).is_ok()
    };
    knows(AccessFs::MakeReg) && !knows(AccessFs::Refer)
}

/// Returns what a kernel's rules cover.
fn covered(abi: ABI, plan: &Plan) -> String {
    let mut covered = vec!["files"];
    if abi >= ABI::V4 && plan.network == Network::None {
        covered.push("TCP");
    }
    if abi >= ABI::V5 {
        covered.push("devices");
    }
    if abi >= ABI::V6 {
        covered.extend(["abstract sockets", "signals"]);
    }
    format!("{} (ABI {})", covered.join(", "), abi as i32)
}

fn apply(plan: &Plan, in_root: bool) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if plan.network == Network::None {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut rules = rules.create()?.set_compatibility(CompatLevel::BestEffort);
    for bind in &plan.binds {
        let path = if in_root { &bind.target } else { &bind.source };
        // A file that is not there needs no rule.
        let Ok(file) = PathFd::new(path) else { continue };
        rules = rules.add_rule(PathBeneath::new(file, rights(bind, path.is_dir())))?;
    }
    if plan.proc
        && let Ok(proc) = PathFd::new(if in_root { PROCESSES } else { "/proc" })
    {
        rules = rules
            .add_rule(PathBeneath::new(proc, make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile})))?;
    }
    rules.restrict_self()
}

/// Returns what may be done with a file of the plan.
fn rights(bind: &Bind, is_dir: bool) -> BitFlags<AccessFs> {
    let rights = match bind.access {
        Access::Execute => make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute}),
        Access::Read | Access::ServeReadOnly => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        Access::Write | Access::Serve => make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | MakeSock | MakeFifo
                | MakeSym
        }),
        Access::Device => make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev}),
    };
    let rights = if bind.access == Access::Serve { rights | AccessFs::Refer } else { rights };
    if is_dir { rights } else { rights & AccessFs::from_file(NEWEST) }
}
