//! The limits of this node: shown, and changed while it runs.

use std::time::Duration;

use p2pinst_api::request::{ApiError, ErrorKind, Limits, LimitsChange};
use p2pinst_api::view::{LimitedView, LimitsView, SettingView, WindowView};
use p2pinst_types::Rates;
use tokio::time::Instant;
use tracing::info;

use super::{Api, Reply};
use crate::config::Config;
use crate::exchange::Setting;

/// Deployments that are shown.
const DEPLOYMENTS: usize = 100;
/// The longest time to set limits for: a century.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl Api {
    pub(super) async fn limits(&self, ask: Limits) -> Reply<LimitsView> {
        match ask.change {
            None => {}
            Some(LimitsChange::Set { rates, for_ms }) => self.set_limits(rates, for_ms)?,
            Some(LimitsChange::Keep { rates }) => self.keep_limits(rates).await?,
            Some(LimitsChange::Reset) => {
                self.exchange.limits().reset();
                info!("limits that were set by hand count no more");
            }
        }
        Ok(self.limits_view())
    }

    fn set_limits(&self, rates: Rates, for_ms: Option<u64>) -> Reply<()> {
        let after = for_ms.map(|ms| Duration::from_millis(ms).min(LONGEST));
        let until = after.and_then(|after| Instant::now().checked_add(after));
        self.exchange.limits().set(rates, until).map_err(|e| {
            ApiError::new(ErrorKind::Refused, format!("cannot set limits: {e}"))
                .hint("take all of them back: p2pinst limits reset")
        })?;
        info!(?rates, secs = after.map(|a| a.as_secs()), "limits are set by hand");
        Ok(())
    }

    async fn keep_limits(&self, rates: Rates) -> Reply<()> {
        let _turn = self.submitting.lock().await; // two at a time would overwrite each other
        let dir = self.dir.clone();
        let kept = tokio::task::spawn_blocking(move || Config::keep_limits(&dir, rates)).await;
        let kept = kept.map_err(|e| e.to_string()).and_then(|k| k.map_err(|e| e.to_string()));
        kept.map_err(|e| {
            let reason = format!("cannot write limits into the configuration: {e}");
            ApiError::new(ErrorKind::Internal, reason)
                .hint("mend the file, or set them without --keep")
        })?;
        self.exchange.limits().keep(rates);
        info!(?rates, "limits are written into the configuration");
        Ok(())
    }

    fn limits_view(&self) -> LimitsView {
        let limits = self.exchange.limits().in_force();
        let now = Instant::now();
        let window = |(at, w): (usize, &p2pinst_chunks::rates::Window)| WindowView {
            days: w.days.into(),
            from: w.from.into(),
            to: w.to.into(),
            rates: w.rates(),
            holds: limits.windows.contains(&at),
        };
        let setting = |s: &Setting| SettingView {
            rates: s.rates,
            left_ms: s.until.map(|until| {
                let left = until.saturating_duration_since(now).as_millis();
                u64::try_from(left).unwrap_or(u64::MAX)
            }),
        };
        let views = self.store.views();
        let limited = views.orders.iter().rev().filter_map(|o| {
            Some(LimitedView { name: views.order_name(o), limit: o.deployment.limit? })
        });
        LimitsView {
            now: limits.rates,
            always: limits.config.always(),
            windows: limits.config.windows.iter().enumerate().map(window).collect(),
            set: limits.settings.iter().map(setting).collect(),
            busy: limits.busy,
            busy_up: limits.busy_up,
            upload_slots: limits.slots.near,
            deployments: limited.take(DEPLOYMENTS).collect(),
        }
    }
}
