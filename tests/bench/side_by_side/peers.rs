//! Who is compared: nginx and HAProxy as one would set them up in this place, and this program with its defaults.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::process::{Resource, geteuid, getrlimit};

use crate::archive::Archive;
use crate::process::{Process, command};
use crate::secure::Certificate;

/// A proxy that can be started.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Nginx,
    HaProxy,
    /// A build of this program.
    Ours(PathBuf),
}

/// A proxy that runs.
pub struct Started {
    pub process: Process,
    pub address: SocketAddr,
    /// Where it records, if it does.
    pub archive: Option<Archive>,
}

impl Peer {
    pub fn nginx() -> Self {
        Self { name: "nginx".into(), kind: Kind::Nginx }
    }

    pub fn haproxy() -> Self {
        Self { name: "HAProxy".into(), kind: Kind::HaProxy }
    }

    pub fn ours(name: &str, program: &Path) -> Self {
        Self { name: name.into(), kind: Kind::Ours(program.to_owned()) }
    }

    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// Starts it in front of a node: with one worker on a core, or with one for each of `threads` cores. All it writes
    /// goes to `folder`. With a certificate, clients come by TLS.
    pub fn start(
        &self,
        node: SocketAddr,
        folder: &Path,
        core: Option<usize>,
        threads: usize,
        certificate: Option<&Certificate>,
    ) -> anyhow::Result<Started> {
        let address = free_address()?;
        let database = folder.join("transcripts.db");
        let setup = Setup { listen: address, node, folder, threads, certificate };
        let (mut command, archive) = match &self.kind {
            Kind::Nginx => (setup.nginx(core)?, None),
            Kind::HaProxy => (setup.haproxy(core)?, None),
            Kind::Ours(program) => (setup.ours(program, &database, core)?, Some(Archive::at(&database))),
        };
        let log = folder.join("log");
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdout(Stdio::from(output.try_clone()?)).stderr(output);
        let mut process = Process::start(&mut command)?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        process.await_port(address).with_context(|| format!("{} does not start\n{}", self.name, said()))?;
        Ok(Started { process, address, archive })
    }
}

struct Setup<'a> {
    listen: SocketAddr,
    node: SocketAddr,
    folder: &'a Path,
    threads: usize,
    certificate: Option<&'a Certificate>,
}

impl Setup<'_> {
    fn nginx(&self, core: Option<usize>) -> anyhow::Result<Command> {
        let config = self.write("nginx.conf", include_str!("nginx.conf"))?;
        let mut command = command("nginx", core);
        command.arg("-p").arg(self.folder).arg("-e").arg(self.folder.join("log")).arg("-c").arg(config);
        Ok(command)
    }

    fn haproxy(&self, core: Option<usize>) -> anyhow::Result<Command> {
        let config = self.write("haproxy.cfg", include_str!("haproxy.cfg"))?;
        let mut command = command("haproxy", core);
        command.arg("-db").arg("-f").arg(config);
        Ok(command)
    }

    /// Its threads follow from the cores it is given.
    fn ours(&self, program: &Path, database: &Path, core: Option<usize>) -> anyhow::Result<Command> {
        let mut command = command(program, core);
        command.arg("serve").args(["--listen", &self.listen.to_string()]).args(["--admin", "127.0.0.1:0"]);
        command.args(["--upstream", &format!("http://{}", self.node)]).arg("--database").arg(database);
        command.env("GMS_RECORDER_LOG_LEVEL", "error");
        if let Some(Certificate { chain, key, .. }) = self.certificate {
            let config = self.folder.join("gms-recorder.toml");
            fs::write(&config, format!("[tls]\ncertificates = [{chain:?}]\nkeys = [{key:?}]\n"))?;
            command.arg("--config").arg(config);
        }
        Ok(command)
    }

    fn write(&self, name: &str, template: &str) -> anyhow::Result<PathBuf> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(65_536);
        // Only root may choose whose the workers are; they could not read this folder if they were nobody's.
        let user = if geteuid().is_root() { "user root;" } else { "" };
        let (mut nginx_tls, mut haproxy_tls, mut nginx_files) = (String::new(), String::new(), String::new());
        if let Some(Certificate { chain, key, both }) = self.certificate {
            nginx_tls += " ssl";
            nginx_files += &format!("ssl_certificate {}; ssl_certificate_key {};", chain.display(), key.display());
            haproxy_tls += &format!(" ssl crt {}", both.display());
        }
        let text = template
            .replace("{nginx_tls}", &nginx_tls)
            .replace("{nginx_files}", &nginx_files)
            .replace("{haproxy_tls}", &haproxy_tls)
            .replace("{user}", user)
            .replace("{threads}", &self.threads.to_string())
            .replace("{files}", &files.to_string())
            .replace("{folder}", &self.folder.display().to_string())
            .replace("{listen}", &self.listen.to_string())
            .replace("{node}", &self.node.to_string());
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// An address that is free now: a moment later it is the proxy's, unless somebody is very quick.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
