//! The node's configuration: `config.toml` in the data directory, written by `init` and `join`.

use p2pinst_api::DataDir;
use p2pinst_boot::dhcp::table::{IsolatedPool, Mode};
use p2pinst_boot::service::HTTP_PORT;
use p2pinst_chunks::quota::{Quota, Size};
use p2pinst_chunks::rates::LimitsConfig;
use p2pinst_files::{Access, FileError};
use p2pinst_install::idle::IdleConfig;
use p2pinst_types::Rates;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml_edit::DocumentMut;

/// Where a node listens unless told otherwise.
pub const LISTEN: &str = "/ip4/0.0.0.0/tcp/4001";
/// Longest configuration, in bytes.
const MAX: u64 = 64 * 1024;

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Multiaddresses to listen on.
    #[serde(default = "listen")]
    pub listen: Vec<String>,
    /// Seconds between two syncs with a random peer (Clumpt's periodic sync).
    #[serde(default = "sync_secs")]
    pub sync_secs: u32,
    /// Seconds between two probes of a silent connection by the transport; one that does not answer
    /// within as long again is closed. Dead peers are found by `probe_secs`, long before.
    #[serde(default = "ping_secs")]
    pub ping_secs: u32,
    /// Seconds between two questions of the failure detector, each to another peer. A member that
    /// was killed is known to all within 2 to 4 times as long, one that was cut off within 4 to 9
    /// times. Raise it on slow or busy links (WAN: 5); it should be the same on all machines.
    #[serde(default = "probe_secs")]
    pub probe_secs: u32,
    /// Connections that a node keeps. With more members each keeps about three eighths of this
    /// number, with neighbours, and makes others when they are needed. At least 4.
    #[serde(default = "connections")]
    pub connections: u32,
    /// Seconds after which a connection that nobody uses, and that need not be kept, is closed.
    #[serde(default = "unused_secs")]
    pub unused_secs: u32,
    /// Seconds that an install waits for another package manager to finish.
    #[serde(default = "lock_secs")]
    pub lock_secs: u32,
    /// Seconds after which a run of the package manager is ended; 0: never.
    #[serde(default = "script_secs")]
    pub script_secs: u32,
    /// What the blobs may take of their disk.
    #[serde(default)]
    pub store: StoreConfig,
    /// When the node counts as idle.
    #[serde(default)]
    pub idle: IdleConfig,
    /// How fast the bytes of blobs may leave and come.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Whom the node boots over the network.
    #[serde(default)]
    pub boot: BootConfig,
}

/// Whom the node boots over the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    /// Nobody.
    #[default]
    Off,
    /// Machines for which an order is in force.
    Armed,
    /// Those, and machines that nobody knows: they appear in `p2pinst machine ls`.
    Discover,
    /// The same, on a segment that has no DHCP server: it gives addresses too, of `[boot.pool]`.
    #[serde(rename = "isolated-dhcp")]
    Isolated,
}

/// Whom the node boots over the network, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootConfig {
    /// `off`, `armed`, `discover` or `isolated-dhcp`.
    pub mode: BootMode,
    /// The interfaces on which machines are answered, by name; none named: all with IPv4.
    pub interfaces: Vec<String>,
    /// The TCP port of the boot service's HTTP server; the same on all nodes.
    pub http_port: u16,
    /// As whom the boot service runs, once it has its sockets.
    pub user: String,
    /// How long a machine that is started for an order may say nothing, in seconds: then its power is switched once more, by a
    /// node with the power role. Servers with much memory test it for minutes.
    pub patience_secs: u32,
    /// Addresses for `isolated-dhcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<IsolatedPool>,
}

impl Default for BootConfig {
    fn default() -> Self {
        Self {
            mode: BootMode::Off,
            interfaces: Vec::new(),
            http_port: HTTP_PORT,
            user: "nobody".to_owned(),
            patience_secs: 300,
            pool: None,
        }
    }
}

impl BootConfig {
    /// Whom the boot service answers.
    ///
    /// # Errors
    /// When addresses are to be given, and it is not said which.
    pub fn mode(&self) -> Result<Mode, String> {
        Ok(match (self.mode, &self.pool) {
            (BootMode::Off, _) => Mode::Off,
            (BootMode::Armed, _) => Mode::Armed,
            (BootMode::Discover, _) => Mode::Discover,
            (BootMode::Isolated, Some(pool)) if pool.size() > 0 => Mode::Isolated(pool.clone()),
            (BootMode::Isolated, _) => {
                return Err("[boot] mode isolated-dhcp needs [boot.pool] with first, last, netmask and lease".to_owned());
            }
        })
    }
}

/// What the blobs may take of their disk. Sizes are bytes (`20GB`, `512MiB`) or parts (`80%`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// The most that they take, of what they have and what is free: above this, blobs that nobody
    /// needs are removed, the longest unused first. A blob that is larger is refused.
    pub quota: String,
    /// Down to what they are removed then, of the quota.
    pub low: String,
    /// What stays free in any case, of what they have and what is free.
    pub min_free: String,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let Quota { most, low, free } = Quota::default();
        Self { quota: most.to_string(), low: low.to_string(), min_free: free.to_string() }
    }
}

impl StoreConfig {
    /// The quota that it says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> Result<Quota, String> {
        let size = |name: &str, text: &str| {
            text.parse::<Size>().map_err(|e| format!("[store] {name}: {e}"))
        };
        let quota = Quota {
            most: size("quota", &self.quota)?,
            low: size("low", &self.low)?,
            free: size("min_free", &self.min_free)?,
        };
        if matches!(quota.most, Size::Bytes(0) | Size::Percent(0)) {
            return Err("[store] quota: nothing could be stored".to_owned());
        }
        if quota.free == Size::Percent(100) {
            return Err("[store] min_free: nothing could be stored".to_owned());
        }
        Ok(quota)
    }
}

fn listen() -> Vec<String> {
    vec![LISTEN.to_owned()]
}

fn sync_secs() -> u32 {
    60
}

fn ping_secs() -> u32 {
    30
}

fn probe_secs() -> u32 {
    1
}

fn connections() -> u32 {
    64
}

fn unused_secs() -> u32 {
    60
}

fn lock_secs() -> u32 {
    600
}

fn script_secs() -> u32 {
    1800
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: listen(),
            sync_secs: sync_secs(),
            ping_secs: ping_secs(),
            probe_secs: probe_secs(),
            connections: connections(),
            unused_secs: unused_secs(),
            lock_secs: lock_secs(),
            script_secs: script_secs(),
            store: StoreConfig::default(),
            idle: IdleConfig::default(),
            limits: LimitsConfig::default(),
            boot: BootConfig::default(),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what it should be.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, with the line.
        reason: String,
    },
}

impl Config {
    /// Reads the configuration; the defaults when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or says what it may not say.
    pub fn load(dir: &DataDir) -> Result<Self, ConfigError> {
        let path = dir.config();
        if !path.exists() {
            return Ok(Self::default());
        }
        let invalid =
            |reason: String| ConfigError::Invalid { path: path.display().to_string(), reason };
        let bytes = p2pinst_files::read(&path, MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| invalid(e.to_string()))?;
        let config: Self = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
        for addr in &config.listen {
            crate::net::check_addr(addr).map_err(|e| invalid(e.to_string()))?;
        }
        if config.sync_secs == 0 || config.ping_secs == 0 {
            return Err(invalid("sync_secs and ping_secs must be at least 1".to_owned()));
        }
        if !(1..=60).contains(&config.probe_secs) {
            return Err(invalid("probe_secs must be from 1 to 60".to_owned()));
        }
        if config.unused_secs == 0 {
            return Err(invalid("unused_secs must be at least 1".to_owned()));
        }
        if !(4..=512).contains(&config.connections) {
            return Err(invalid("connections must be from 4 to 512".to_owned()));
        }
        config.store.read().map_err(invalid)?;
        config.limits.check().map_err(invalid)?;
        config.boot.mode().map_err(invalid)?;
        if config.boot.http_port == 0 {
            return Err(invalid("[boot] http_port must be at least 1".to_owned()));
        }
        Ok(config)
    }

    /// Writes limits into the file, and leaves all else in it as it is, comments too.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is no configuration any more.
    pub fn keep_limits(dir: &DataDir, rates: Rates) -> Result<(), ConfigError> {
        Self::load(dir)?; // whoever edits it by hand is told of mistakes first
        let path = dir.config();
        let invalid =
            |reason: String| ConfigError::Invalid { path: path.display().to_string(), reason };
        let bytes = if path.exists() { p2pinst_files::read(&path, MAX)? } else { Vec::new() };
        let text = std::str::from_utf8(&bytes).map_err(|e| invalid(e.to_string()))?;
        let mut file: DocumentMut =
            text.parse().map_err(|e: toml_edit::TomlError| invalid(e.to_string()))?;
        let limits = file.entry("limits").or_insert_with(toml_edit::table);
        let limits = limits.as_table_like_mut();
        let limits = limits.ok_or_else(|| invalid("limits is no table".to_owned()))?;
        for (name, limit) in rates.named() {
            if let Some(limit) = limit {
                limits.insert(name, toml_edit::value(limit.to_string()));
            }
        }
        p2pinst_files::write(&path, file.to_string().as_bytes(), Access::Public)?;
        Ok(())
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: &DataDir) -> Result<(), ConfigError> {
        let path = dir.config();
        let text = toml::to_string_pretty(self).map_err(|e| ConfigError::Invalid {
            path: path.display().to_string(),
            reason: e.to_string(),
        })?;
        p2pinst_files::write(&path, text.as_bytes(), Access::Public)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_survive_a_trip_through_the_file_and_unknown_fields_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path());
        assert_eq!(Config::load(&dir).unwrap(), Config::default());
        Config::default().save(&dir).unwrap();
        assert_eq!(Config::load(&dir).unwrap(), Config::default());
        for bad in [
            "lisen = []",
            "listen = [\"10.0.0.1:4001\"]",
            "sync_secs = 0",
            "probe_secs = 0",
            "connections = 3",
            "unused_secs = 0",
            "[store]\nquota = \"lots\"",
            "[store]\nquota = \"0\"",
            "[store]\nqouta = \"1GB\"",
            "[limits]\nup = \"fast\"",
            "[limits]\nupload_slots = 0",
            "[boot]\nmode = \"on\"",
            "[boot]\nmode = \"isolated-dhcp\"",
            "[boot]\nhttp_port = 0",
        ] {
            std::fs::write(dir.config(), bad).unwrap();
            let error = Config::load(&dir).unwrap_err().to_string();
            assert!(error.contains("config.toml"), "{error}");
        }
    }

    #[test]
    fn limits_are_kept_beside_what_is_written_there() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path());
        let rates = |up: &str| Rates { up: Some(up.parse().unwrap()), ..Rates::default() };
        Config::keep_limits(&dir, rates("5MB/s")).unwrap();
        assert_eq!(Config::load(&dir).unwrap().limits.always(), rates("5MB/s"));
        let text = "sync_secs = 7 # often\n[limits] # of the line\nwan_up = \"1MB/s\"\n";
        std::fs::write(dir.config(), text).unwrap();
        Config::keep_limits(&dir, rates("none")).unwrap();
        let config = Config::load(&dir).unwrap();
        let want = Rates { wan_up: Some("1MB/s".parse().unwrap()), ..rates("none") };
        assert_eq!((config.sync_secs, config.limits.always()), (7, want));
        let text = std::fs::read_to_string(dir.config()).unwrap();
        assert!(text.contains("# often") && text.contains("# of the line"), "{text}");
        Config::default().save(&dir).unwrap();
        Config::keep_limits(&dir, rates("2Mbit/s")).unwrap();
        assert_eq!(Config::load(&dir).unwrap().limits.always(), rates("250kB/s"));
    }
}
