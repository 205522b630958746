//! The configuration: one that is accepted passes its own check again, means the same once it was
//! written and read again, and gives limits a shard can keep.

use abi::layout::WINDOW_BYTES;
use pilotlight::Config;
use pilotlight::config::SHARDS_MAX;

/// `data` is a configuration file, if it is UTF-8.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().trim().is_empty(), "a refusal has a reason");
            return false;
        }
    };
    assert_eq!(config.check(), Ok(()));
    let written = toml::to_string(&config);
    assert!(written.is_ok(), "what was read can be written: {written:?}");
    let again = Config::parse(&written.unwrap_or_default());
    assert_eq!(again.as_ref(), Ok(&config), "and read again");
    limits(&config);
    cores(&config);
    true
}

fn limits(config: &Config) {
    let _ = (config.poll_nanos(), config.shard_poll_nanos(), config.verify_nanos_max());
    let _ = (config.account_wait_nanos(), config.ram_bytes());
    assert!(config.requests.memory_mib_default <= config.memory_mib_max());
    for shards in [1, 2, 3, SHARDS_MAX] {
        for root_image_bytes in [0, 5000, WINDOW_BYTES] {
            let shards = u32::try_from(shards).unwrap_or(1);
            let limits = config.pool_limits(shards, root_image_bytes);
            assert!(limits.vms_max >= 1 && limits.warm_max <= limits.vms_max);
            assert!(limits.warm_min <= limits.warm_target);
            assert!(limits.warm_target <= limits.warm_max);
            assert!(limits.window_start + limits.window_bytes <= WINDOW_BYTES);
        }
    }
}

/// Every core that is given out is one of those there are, and neither side has none.
fn cores(config: &Config) {
    for available in [&[0_u32][..], &[0, 1], &[2, 3, 5, 7]] {
        let Ok(split) = config.core_split(available) else { continue };
        assert!((1..=SHARDS_MAX).contains(&split.shards.len()) && !split.guests.is_empty());
        assert!(split.shards.iter().chain(&split.guests).all(|core| available.contains(core)));
    }
}
