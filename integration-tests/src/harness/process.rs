//! A child process: started, waited for, killed by its id.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// Most bytes of standard error that a failed test shows.
const SHOWN_BYTES: usize = 16 << 10;

/// Finds a binary of the workspace beside the running test.
///
/// # Panics
/// If it is not there.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own executable");
    let folder = own.parent().expect("an executable is in a folder");
    // Tests are in `deps`, examples in `examples`, binaries where we look.
    let folder = match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().unwrap_or(folder),
        _ => folder,
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: build the workspace first", path.display());
    path
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub stderr: String,
    /// What it wrote to standard output.
    pub stdout: String,
}

/// A running process. Dropping it kills it, and only it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a process; what it says goes to the files `<name>.out` and `<name>.err` of a folder.
    pub fn start(command: impl Into<Command>, folder: &Path, name: &str) -> Self {
        let mut command = command.into();
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let create = |path: &Path| File::create(path).expect("the test's folder is writable");
        command.stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&stderr)).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("a child that was just started");
        Self { child, pid, stdout, stderr }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Waits for a line on standard output that starts so, and returns its rest; how it ended if it ended first.
    ///
    /// # Panics
    /// If it neither says so nor ends in time.
    pub async fn says(&mut self, start: &str) -> Result<String, Exit> {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().expect("a child can be waited for");
            let said = self.stdout();
            let lines = said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            if let Some(rest) = lines.filter_map(|line| line.strip_prefix(start)).next() {
                return Ok(rest.to_owned());
            }
            if let Some(status) = ended {
                return Err(self.exit(status));
            }
            assert!(Instant::now() < until, "{start:?} was not said within {PATIENCE:?}:\n{}", self.stderr());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // An error means that it has ended already.
        kill_process(self.pid, signal).ok();
    }

    /// True if it has ended by now.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn ended(&mut self) -> Exit {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => self.exit(status.expect("a child can be waited for")),
            Err(_) => panic!("it did not end within {PATIENCE:?}:\n{}", self.stderr()),
        }
    }

    /// Ends it without notice (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    fn exit(&self, status: ExitStatus) -> Exit {
        Exit { code: status.code(), stderr: self.stderr(), stdout: self.stdout() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.stderr();
            let from = said.ceil_char_boundary(said.len().saturating_sub(SHOWN_BYTES));
            eprintln!("--- {} said:\n{}---", self.stderr.display(), &said[from..]);
        }
        self.child.start_kill().ok();
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
