//! The surroundings of a guest's programs: the daemon's user, directory, limits and environment, which the commands of hosts
//! have, too.

use crate::boot::Image;
use crate::environment::{self, Environment};
use crate::forerunner::Orders;
use crate::process::step_failed;
use crate::users::{self, Ids, User};
use pepita_wire::Exit;
use pepita_wire::agent::Start;
use pepita_wire::world::{ON_HOST, Ulimit, World};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;

const HOME: &str = "HOME";
const USER: &str = "USER";
const LOGNAME: &str = "LOGNAME";

/// The surroundings of a guest's programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The environment, without what only the daemon has.
    pub(crate) environment: Environment,
    /// The user; `None` = that of the agent.
    pub(crate) ids: Option<Ids>,
    /// The working directory; empty = `/`.
    pub(crate) directory: String,
    is_confined: bool,
    is_guest: bool,
    ulimits: BTreeMap<String, Ulimit>,
}

impl Surroundings {
    /// Returns the surroundings of a plain process of the host. What its world cannot have is refused.
    ///
    /// # Errors
    /// [`Exit::NotExecutable`] with the values that only a VM can give a daemon.
    pub(crate) fn on_host(image: &Image, start: &Start, cid: u32) -> Result<Self, Exit> {
        let World { workdir, ulimits, .. } = &*start.world;
        let reach = (!start.reach.is_empty()).then_some("reach");
        let network = start.network.is_some().then_some("network");
        let asked = start.world.asked().into_iter().chain(reach).chain(network);
        let refused: Vec<_> = asked.filter(|key| !ON_HOST.contains(key)).collect();
        if !refused.is_empty() {
            let why = io::Error::from(Errno::NOTSUP);
            return Err(step_failed(&format!("as a plain process, with {}", refused.join(", ")), &why));
        }
        Ok(Self {
            environment: environment::of_guest(std::env::vars_os(), &image.env, &start.env, cid),
            directory: workdir.clone().unwrap_or_default(),
            ulimits: ulimits.clone(),
            ..Self::default()
        })
    }

    /// Returns the surroundings in a guest. What the start leaves open, the image decides.
    ///
    /// # Errors
    /// [`Exit::NotExecutable`] with the user, when the image does not have it.
    pub(crate) fn in_guest(image: &Image, start: &Start, cid: u32) -> Result<Self, Exit> {
        let world = &start.world;
        let wanted = world.user.as_ref().or(image.user.as_ref());
        let user = wanted.map(|wanted| user_of_image(wanted)).transpose()?;
        // The agent's own environment is the kernel's.
        let mut environment = environment::of_guest(std::iter::empty(), &image.env, &start.env, cid);
        for (variable, value) in of_user(user.as_ref())? {
            environment.entry(variable.into()).or_insert(value);
        }
        Ok(Self {
            environment,
            ids: user.map(|user| user.ids),
            directory: world.workdir.as_ref().or(image.workdir.as_ref()).cloned().unwrap_or_default(),
            is_confined: !world.privileged,
            is_guest: true,
            ulimits: world.ulimits.clone(),
        })
    }

    /// Returns these surroundings with another user, whose home and name are in the environment then.
    ///
    /// # Errors
    /// [`Exit::NotExecutable`] when the image does not have the user, or outside a guest.
    pub(crate) fn with_user(&self, wanted: &str) -> Result<Self, Exit> {
        if !self.is_guest {
            return Err(step_failed("as a plain process, with user", &io::Error::from(Errno::NOTSUP)));
        }
        let user = user_of_image(wanted)?;
        let mut environment = self.environment.clone();
        for variable in [USER, LOGNAME] {
            environment.remove(OsStr::new(variable));
        }
        for (variable, value) in of_user(Some(&user))? {
            environment.insert(variable.into(), value);
        }
        Ok(Self { environment, ids: Some(user.ids), ..self.clone() })
    }

    /// Returns the orders to start a program in these surroundings.
    pub(crate) fn orders(&self, argv: &[String]) -> Orders {
        Orders {
            argv: argv.to_vec(),
            directory: self.directory.clone(),
            is_guest: self.is_guest,
            ids: self.ids.clone(),
            is_confined: self.is_confined,
            ulimits: self.ulimits.clone(),
            cgroup: None,
            has_terminal: false,
            is_watched: false,
            environment: None,
            waits: false,
        }
    }
}

/// Returns the variables that tell a program of its user; `None` = root.
fn of_user(user: Option<&User>) -> Result<Vec<(&'static str, OsString)>, Exit> {
    let home = user.map_or_else(|| user_of_image("0"), |user| Ok(user.clone()))?.home;
    // A program without a home has that of the kernel's first process.
    let home = if home.is_empty() { "/".to_owned() } else { home };
    let name = user.map(|user| &user.name).filter(|name| !name.is_empty());
    let names = name.into_iter().flat_map(|name| [(USER, name.into()), (LOGNAME, name.into())]);
    Ok([(HOME, home.into())].into_iter().chain(names).collect())
}

/// Resolves a user in the files of the image. An image without such files knows numbers, and root.
fn user_of_image(wanted: &str) -> Result<User, Exit> {
    let read = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (passwd, group) = (read("/etc/passwd").unwrap_or_default(), read("/etc/group").unwrap_or_default());
    users::resolve(wanted, &passwd, &group).map_err(|why| Exit::NotExecutable {
        path: String::new(),
        errno: Errno::INVAL.raw_os_error(),
        message: why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(world: World) -> Start {
        Start { world: world.into(), ..Start::default() }
    }

    #[test]
    fn a_plain_process_has_a_directory_and_limits_and_refuses_the_rest() {
        let image = Image::default();
        let limit: Ulimit = "5".parse().expect("a limit");
        let world = World {
            workdir: Some("/tmp".into()),
            ulimits: [("nofile".to_owned(), limit)].into(),
            ..World::default()
        };
        let orders = Surroundings::on_host(&image, &start(world.clone()), 7).expect("possible").orders(&[]);
        assert_eq!((orders.directory.as_str(), orders.is_confined, orders.ids), ("/tmp", false, None));
        assert_eq!(orders.ulimits, world.ulimits);
        let world = World { user: Some("redis".into()), read_only: true, ..world };
        let refused = Surroundings::on_host(&image, &start(world), 7).expect_err("refused").to_string();
        assert!(refused.contains("user, read_only"), "{refused}");
        let of_command = Surroundings::on_host(&image, &start(World::default()), 7).expect("possible");
        assert!(of_command.with_user("0").is_err());
    }

    #[test]
    fn what_the_start_leaves_open_the_image_decides() {
        let image =
            Image { user: Some("654321:8".into()), workdir: Some("/image".into()), ..Image::default() };
        let of = |world| Surroundings::in_guest(&image, &start(world), 7).expect("possible").orders(&[]);
        let orders = of(World::default());
        assert_eq!((orders.directory.as_str(), orders.is_confined), ("/image", true));
        assert_eq!(orders.ids.map(|ids| (ids.uid, ids.gid)), Some((654_321, 8)));
        let environment = [("USER".to_owned(), "somebody".to_owned()), ("A".to_owned(), "1".to_owned())];
        let of_daemon = Start { env: environment.into(), ..Start::default() };
        let of_daemon = Surroundings::in_guest(&image, &of_daemon, 7).expect("possible");
        let command = of_daemon.with_user("654322:9").expect("a number");
        assert_eq!(command.ids.map(|ids| (ids.uid, ids.gid)), Some((654_322, 9)));
        let variable =
            |name: &str| command.environment.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!((variable("USER"), variable("HOME"), variable("A")), (None, Some("/"), Some("1")));
        assert_eq!(command.directory, "/image");
        let orders = of(World {
            user: Some("654321".into()),
            workdir: Some("/start".into()),
            privileged: true,
            ..World::default()
        });
        assert_eq!((orders.directory.as_str(), orders.is_confined), ("/start", false));
        assert_eq!(orders.ids.map(|ids| (ids.uid, ids.gid)), Some((654_321, 0)));
    }
}
