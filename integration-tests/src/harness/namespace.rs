//! Network namespaces: each process a host of its own, with an address, that can lose another one for good.
//!
//! A run is a thread with a namespace of its own, and so is whatever that thread starts; in it a bridge joins the
//! namespaces of the hosts. None of them has a name: they go with the last thread, process and file that holds them,
//! however the run ends. Nothing is left on the machine, and nothing of it is reached from there.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    process::{Command, Output},
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Hosts listen here: each has an address of its own.
const PORT: u16 = 7400;
/// Rules are asked in their order: who is not heard, then which addresses are the host's own, as ever.
const NOT_HEARD: &str = "10";
const OWN: &str = "100";

/// A host.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    number: u8,
}

/// Tells why namespaces cannot be had here: they need root, `ip` of iproute2, and a kernel with all of it.
pub fn try_out() -> io::Result<()> {
    on_thread(|| {
        unshare()?;
        Namespace::host(2).map(drop)
    })
}

/// Gives the calling thread a namespace of its own, with a bridge for hosts. If it fails the thread is good for nothing.
pub fn unshare() -> io::Result<()> {
    own(UnshareFlags::NEWNET)?;
    shell(
        "ip link set lo up; ip link add bridge type bridge; ip addr add 10.0.0.1/24 dev bridge; ip link set bridge up",
    )
}

impl Namespace {
    /// Adds a host to the calling thread's bridge. Numbers from 2 on are free.
    pub fn host(number: u8) -> io::Result<Self> {
        let file = on_thread(|| own(UnshareFlags::NEWNET).and_then(|()| File::open("/proc/thread-self/ns/net")))?;
        let host = Self { file, number };
        let (path, address) = (host.path(), host.ip());
        shell(&format!("ip link add host{number} type veth peer name eth0 netns {path}"))?;
        shell(&format!("ip link set host{number} master bridge up"))?;
        host.shell("ip link set lo up; ip link set eth0 up")?;
        host.shell(&format!("ip addr add {address}/24 dev eth0"))?;
        // A rule can only come before the one of the own addresses if that is not the first of all.
        host.shell(&format!("ip rule add pref {OWN} lookup local; ip rule del pref 0"))?;
        Ok(host)
    }

    /// Where a process listens that is started here.
    pub fn address(&self) -> SocketAddr {
        (self.ip(), PORT).into()
    }

    /// A command that runs here, and ends with the thread that starts it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).args(["setpriv", "--pdeathsig", "KILL"]).arg(program);
        command
    }

    /// Listens here, for somebody who is no process.
    pub fn listen(&self) -> io::Result<TcpListener> {
        self.inside(|| {
            let listener = TcpListener::bind(self.address())?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
    }

    /// From now on nothing that another one sends arrives, and nobody is told. What is sent to it does.
    pub fn lose(&self, other: &Self) -> io::Result<()> {
        self.shell(&format!("ip rule add pref {NOT_HEARD} from {} blackhole", other.ip()))
    }

    /// From now on everything that it sends arrives again.
    pub fn hear(&self, other: &Self) -> io::Result<()> {
        self.shell(&format!("ip rule del pref {NOT_HEARD} from {}", other.ip()))
    }

    fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, self.number)
    }

    /// Where other processes find it, as long as this one lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    fn shell(&self, script: &str) -> io::Result<()> {
        shell(&format!("nsenter --net={} sh -ec '{script}'", self.path()))
    }

    fn inside<T: Send>(&self, run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            run()
        })
    }
}

/// Gives the calling thread a namespace of its own, of this kind.
pub(super) fn own(kind: UnshareFlags) -> io::Result<()> {
    #[expect(deprecated, reason = "its successor is unsafe for file descriptors, which stay shared")]
    Ok(rustix::thread::unshare(kind)?)
}

/// Runs something on a thread of its own, whose namespace goes with it.
pub(super) fn on_thread<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn shell(script: &str) -> io::Result<()> {
    let Output { status, stderr, .. } = Command::new("sh").args(["-ec", script]).output()?;
    let said = String::from_utf8_lossy(&stderr);
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{script:?}: {}", said.trim()))) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_host_that_has_lost_another_hears_nothing_of_it_and_is_heard() {
        let run = || {
            unshare()?;
            let (one, other) = (Namespace::host(2)?, Namespace::host(3)?);
            let listener = one.listen()?;
            listener.set_nonblocking(false)?;
            let mut away = other.inside(|| TcpStream::connect(one.address()))?;
            let (mut here, _) = listener.accept()?;
            here.set_read_timeout(Some(Duration::from_millis(300)))?;
            away.set_read_timeout(Some(Duration::from_secs(10)))?;

            one.lose(&other)?;
            away.write_all(b"x")?;
            assert_eq!(here.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let connects = || other.inside(|| TcpStream::connect_timeout(&one.address(), Duration::from_millis(300)));
            assert_eq!(connects().unwrap_err().kind(), io::ErrorKind::TimedOut);
            here.write_all(b"y")?;
            away.read_exact(&mut [0; 1])?;

            one.hear(&other)?;
            here.set_read_timeout(Some(Duration::from_secs(10)))?;
            here.read_exact(&mut [0; 1])?;
            connects().map(drop)
        };
        match try_out() {
            Ok(()) => on_thread(run).unwrap(),
            Err(why) => eprintln!("not shown here, for network namespaces need root: {why}"),
        }
    }
}
