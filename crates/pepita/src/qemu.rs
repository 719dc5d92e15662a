//! QEMU's command line for a microVM. Words only; nothing is run here.
//!
//! The recipe is measured: modern Debian kernels find microvm's devices through ACPI, an emulated guest has to be told
//! its TSC's frequency, and `reboot=t panic=-1` with `-no-reboot` turns every end of the guest into an end of QEMU.

use crate::rundir::layout;
use crate::vm_config::{Accel, Root, VmConfig};
use pepita_wire::record::Transport;
use std::ffi::OsString;
use std::path::Path;

/// QEMU keeps at most so much translated code of an emulated guest, in MiB. (Else it is an eighth of the host's memory,
/// up to 1 GiB.)
pub const TRANSLATED_MB: u64 = 128;

/// Descriptors that QEMU inherits.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    /// Listens for whoever commands QEMU.
    pub qmp: i32,
    /// `/dev/vhost-vsock` with the CID set on the kernel transport; else a connection to the back-end.
    pub vsock: i32,
}

/// The kernel's command line.
pub fn cmdline(plan: &VmConfig, token: &str) -> String {
    let mut words =
        vec!["console=hvc0 quiet reboot=t panic=-1 mitigations=off cryptomgr.notests lsm=".to_owned()];
    if let (Accel::Tcg, Some(khz)) = (plan.accel, plan.tsc_khz) {
        words.push(format!("tsc_early_khz={khz}"));
    }
    if let Root::Disk { initrd: None, .. } = plan.root {
        words.push("root=/dev/vda rw init=/sbin/daemonctl".to_owned());
    }
    let cid = plan.cid.unwrap_or_default();
    words.push(format!(
        "pepita.token={token} pepita.port={} pepita.incarnation={} pepita.cid={cid}",
        plan.port, plan.incarnation
    ));
    if !plan.cmdline_append.is_empty() {
        words.push(plan.cmdline_append.clone());
    }
    words.join(" ")
}

/// QEMU's arguments. It runs in the VM's run directory, so sockets have short names there.
pub fn argv(plan: &VmConfig, cmdline: &str, fds: Descriptors) -> Vec<OsString> {
    let mut argv: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| argv.extend([OsString::from(option), value]);
    let memory = format!("{}M", plan.memory_mb);
    // Shared, for the vsock back-end, which is another process.
    add("-M", "microvm,memory-backend=mem,isa-serial=off".into());
    add("-object", format!("memory-backend-memfd,id=mem,size={memory},share=on").into());
    add(
        "-accel",
        match plan.accel {
            Accel::Tcg => format!("tcg,tb-size={TRANSLATED_MB}").into(),
            accel => accel.as_str().into(),
        },
    );
    if plan.accel == Accel::Kvm {
        add("-cpu", "host".into());
    }
    add("-m", memory.into());
    add("-smp", plan.cpus.to_string().into());
    add("-name", plan.name.clone().into());
    if let Some(kernel) = &plan.kernel {
        add("-kernel", kernel.into());
    }
    match &plan.root {
        Root::Initramfs(image) => add("-initrd", image.into()),
        Root::Disk { image, initrd } => {
            if let Some(initrd) = initrd {
                add("-initrd", initrd.into());
            }
            // Writes go to a temporary file that is gone with the VM: every incarnation starts from the same image.
            add("-drive", drive(image));
            add("-device", "virtio-blk-device,drive=root".into());
        }
        Root::Host(_) => {}
    }
    add("-append", cmdline.into());
    add("-device", "virtio-serial-device".into());
    add("-chardev", format!("pipe,id=console,path={}", layout::CONSOLE_PIPES).into());
    add("-device", "virtconsole,chardev=console".into());
    add("-chardev", format!("socket,id=qmp,fd={},server=on,wait=on", fds.qmp).into());
    add("-mon", "chardev=qmp,mode=control".into());
    match plan.transport {
        Transport::Vhost => {
            let (cid, fd) = (plan.cid.unwrap_or_default(), fds.vsock);
            add("-device", format!("vhost-vsock-device,guest-cid={cid},vhostfd={fd}").into());
        }
        Transport::Hybrid => {
            add("-chardev", format!("socket,id=vsock,fd={}", fds.vsock).into());
            add("-device", "vhost-user-vsock-device,chardev=vsock".into());
        }
    }
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    for flag in ["-no-reboot", "-nodefaults", "-no-user-config"] {
        argv.push(flag.into());
    }
    argv.extend(["-display".into(), "none".into()]);
    argv
}

/// A comma in a file name is doubled in QEMU's options.
fn drive(image: &Path) -> OsString {
    let mut drive = OsString::from("if=none,id=root,format=raw,snapshot=on,file=");
    drive.push(image.to_string_lossy().replace(',', ",,"));
    drive
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_config::tests::plan;

    fn text(plan: &VmConfig) -> String {
        let fds = Descriptors { qmp: 4, vsock: 5 };
        let argv = argv(plan, &cmdline(plan, "t0k"), fds);
        argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_emulated_guest_is_told_its_tsc_and_its_secrets_are_not_in_the_argv() {
        let text = text(&plan());
        assert!(text.contains("tsc_early_khz=2000000") && text.contains("pepita.incarnation=7"), "{text}");
        assert!(text.contains("loglevel=7") && !text.contains("s3"), "{text}");
    }

    #[test]
    fn the_kernel_transport_gets_the_claimed_descriptor() {
        let text = text(&VmConfig { transport: Transport::Vhost, accel: Accel::Kvm, ..plan() });
        assert!(text.contains("vhost-vsock-device,guest-cid=42,vhostfd=5"), "{text}");
        assert!(text.contains("-cpu host") && !text.contains("tsc_early_khz"), "{text}");
    }

    #[test]
    fn a_comma_in_an_image_s_name_ends_no_option() {
        let root = Root::Disk { image: "/a,b.ext4".into(), initrd: None };
        let text = text(&VmConfig { root, ..plan() });
        assert!(text.contains("file=/a,,b.ext4") && text.contains("root=/dev/vda"), "{text}");
    }
}
