//! The recorder behind the `metrics` macros, and its text for Prometheus.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustix::time::{ClockId, clock_gettime};

/// Bounds of every histogram, in seconds. Without them the exporter would render summaries, which cannot be added up.
const SECONDS_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Histograms keep their samples until somebody drains them; nobody may ever scrape.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The process's recorder.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

/// The recorder could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct InstallError(#[from] metrics_exporter_prometheus::BuildError);

impl Metrics {
    /// Installs the recorder; to be called before the first metric is touched, since handles that were made earlier
    /// count nowhere.
    ///
    /// # Errors
    /// If the process has a recorder already.
    pub fn install() -> Result<Metrics, InstallError> {
        let handle = PrometheusBuilder::new().set_buckets(SECONDS_BUCKETS)?.install_recorder()?;
        metrics::describe_gauge!("process_resident_memory_bytes", "Resident memory of the process.");
        // A counter by nature, but counters here count whole numbers.
        metrics::describe_gauge!("process_cpu_seconds_total", "CPU time of the process, user and system, in seconds.");
        metrics::describe_gauge!("process_open_fds", "Open file descriptors of the process.");
        Ok(Metrics(handle))
    }

    /// Drains histograms for ever; one task of the process runs it.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(UPKEEP_EVERY);
        loop {
            tick.tick().await;
            self.0.run_upkeep();
        }
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
        }
        let used = clock_gettime(ClockId::ProcessCPUTime);
        metrics::gauge!("process_cpu_seconds_total").set(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9);
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            metrics::gauge!("process_open_fds").set(open.count() as f64);
        }
        self.0.render()
    }
}

/// `VmRSS` of `/proc/self/status`, which is in kB whatever the page size.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
