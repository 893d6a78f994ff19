//! Object stores written by others, as processes beside the tests; `deploy/setup.sh tests` installs them.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A running store.
pub(super) struct Beside {
    process: Child,
    pub(super) endpoint: String,
}

impl Beside {
    /// Starts a program of the cache folder and waits until it says at which URL it listens.
    pub(super) fn start(program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let path = cache().join(program);
        let mut process = Command::new(&path)
            .args(arguments)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{}: {err}: run `deploy/setup.sh tests`", path.display()));
        let (says, said) = std::sync::mpsc::channel();
        // Both are read to their ends, or it blocks once a pipe is full.
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for output in outputs {
            let says = says.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some((_, url)) = line.split_once("http://") {
                        let end = url.find(|c: char| !c.is_ascii_alphanumeric() && !".:".contains(c));
                        let _ = says.send(format!("http://{}", &url[..end.unwrap_or(url.len())]));
                    }
                }
            });
        }
        drop(says);
        let endpoint = said.recv().unwrap_or_else(|_| panic!("{program} ended without an address"));
        Self { process, endpoint }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where `deploy/setup.sh` puts things.
pub(super) fn cache() -> PathBuf {
    let dir = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    dir("FOREBAY_CACHE").unwrap_or_else(|| {
        let home = || dir("HOME").expect("HOME is set").join(".cache");
        dir("XDG_CACHE_HOME").unwrap_or_else(home).join("forebay")
    })
}
