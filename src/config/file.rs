//! The structure of the file: which keys may stand where, and which values a VM inherits. Says nothing of what keys mean
//! together; that is `check`.

use super::reader::{Keys, Layer, Reader, Table};
use crate::spec::keys::{Keyed, Row, Scope};
use crate::spec::{GroupSpec, TreeSpec, VmSpec};
use std::ops::Range;

/// A `[[group.vm]]`.
#[derive(Debug)]
pub(super) struct RawVm<'t> {
    /// Its header.
    pub(super) at: Range<usize>,
    /// What it is called in messages: `group "web" vm "api"`.
    pub(super) called: String,
    /// What is written, and below it what the VM inherits.
    pub(super) layer: Layer<'t>,
}

/// A `[[group]]`.
#[derive(Debug)]
pub(super) struct RawGroup<'t> {
    /// Its header.
    pub(super) at: Range<usize>,
    /// What it is called in messages: `group "web"`.
    pub(super) called: String,
    /// Its name as it is written, right or wrong.
    pub(super) name: Option<&'t str>,
    pub(super) layer: Layer<'t>,
    pub(super) vms: Vec<RawVm<'t>>,
}

/// The whole file.
#[derive(Debug)]
pub(super) struct RawTree<'t> {
    pub(super) supervisor: Layer<'t>,
    /// `[platform.pepita]` and `[defaults.*]`.
    pub(super) defaults: Layer<'t>,
    pub(super) groups: Vec<RawGroup<'t>>,
}

/// Returns the keys of VMs in these scopes.
pub(super) fn vm_rows(scopes: &[Scope]) -> impl Iterator<Item = &'static Row<VmSpec>> {
    VmSpec::ROWS.iter().filter(|row| scopes.contains(&row.scope))
}

fn keys<S: 'static>(prefix: &str, rows: impl Iterator<Item = &'static Row<S>>) -> Keys {
    rows.map(|row| (format!("{prefix}{}", row.name), Some(row.kind))).collect()
}

/// Reads the file's root.
pub(super) fn tree<'t>(root: &Table<'t>, reader: &Reader<'t>) -> RawTree<'t> {
    let root_keys = [
        keys("platform.pepita.", vm_rows(&[Scope::Machine])),
        keys("supervisor.", TreeSpec::ROWS.iter()),
        keys("defaults.", vm_rows(&[Scope::Policy])),
        vec![("group".to_owned(), None), ("group.vm".to_owned(), None)],
    ];
    let group_keys = [
        keys("", GroupSpec::ROWS.iter()),
        keys("", vm_rows(&[Scope::Machine, Scope::Policy])),
        vec![("vm".to_owned(), None)],
    ];
    let vm_keys = keys("", VmSpec::ROWS.iter());
    let (root_keys, group_keys) = (root_keys.concat(), group_keys.concat());
    let written = reader.read(root, &root_keys);
    let defaults: Layer<'t> = written.below("platform.pepita").chain(written.below("defaults")).collect();
    let groups = reader.each(root, "group").into_iter().map(|table| {
        let layer = reader.read(&table, &group_keys);
        let vms = reader.each(&table, "vm").into_iter().map(|vm| {
            let mut own = reader.read(&vm, &vm_keys);
            for row in vm_rows(&[Scope::Machine, Scope::Policy]) {
                own.inherit(row.name, &layer);
                own.inherit(row.name, &defaults);
            }
            RawVm { at: vm.at, called: vm.owner, layer: own }
        });
        let vms = vms.collect();
        RawGroup { name: table.peek("name"), at: table.at, called: table.owner, layer, vms }
    });
    let groups = groups.collect();
    RawTree { supervisor: written.below("supervisor").collect(), defaults, groups }
}
