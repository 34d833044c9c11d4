"""Configuration: the file, the environment, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from mediaserver.config import BargeInConfig, ChatterboxConfig, Config, ConfigError, load
from mediaserver.rtp.barge_in import BargeInSettings
from mediaserver.trunk_config import TrunkConfig

SHIPPED = Path(__file__).parents[2] / "configs" / "chatterline.toml"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("CHATTERLINE_"):
            monkeypatch.delenv(name)


def write(path: Path, text: str) -> Path:
    file = path / "c.toml"
    file.write_text(text, encoding="utf-8")
    return file


def error(path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_the_shipped_file_shows_every_default() -> None:
    assert load(SHIPPED) == load()


def test_the_shipped_file_has_every_key() -> None:
    import tomllib

    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    for name, section in Config():
        if name != "trunks":  # a table of tables, each named by who writes the file
            assert set(shipped[name]) == set(type(section).model_fields), name
    assert set(shipped["tts"]["chatterbox"]) == set(ChatterboxConfig.model_fields)


def test_the_shipped_file_shows_a_whole_trunk(tmp_path: Path) -> None:
    """As a comment: there is none by default. Uncommented it is one, with every key and its default."""
    import tomllib

    comment = SHIPPED.read_text(encoding="utf-8").partition("# [trunks.pbx]")
    text = "\n".join(line.removeprefix("# ") for line in (comment[1] + comment[2]).splitlines())
    shown = tomllib.loads(text)["trunks"]["pbx"]
    assert set(shown) == set(TrunkConfig.model_fields)
    trunk = load(write(tmp_path, text)).trunks["pbx"]
    assert trunk == TrunkConfig(host="pbx.example.com", greeting="")


def test_without_configuration_only_loopback_calls() -> None:
    config = load()
    assert config.sip.host == "127.0.0.1"
    assert config.rtp_host == "127.0.0.1"
    assert all(network.is_loopback for network in config.sip.allow)


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "[sip]\nport = 5070\nt1_ms = 100\n")
    monkeypatch.setenv("CHATTERLINE_SIP__PORT", "5261")
    config = load(file)
    assert (config.sip.port, config.sip.t1_ms) == (5261, 100)


def test_lists_and_tables_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_SIP__ALLOW", '["10.0.0.0/8"]')
    monkeypatch.setenv("CHATTERLINE_TTS__VOICES", '{"heart": {}, "slow": {"speed": 0.8}}')
    config = load()
    assert [str(network) for network in config.sip.allow] == ["10.0.0.0/8"]
    assert config.tts.voices["slow"].speed == 0.8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sip]\nport = 70000", "[sip] port"),
        ("[sip]\nport = 'x'", "[sip] port"),
        ("[sip]\nprot = 5060", "[sip] prot: unknown key"),
        ("[spi]\nport = 5060", "[spi]: unknown section"),
        ("[sip]\nhost = 'pbx.example'", "[sip] host: 'pbx.example' is not an IP address"),
        ("[sip]\nallow = ['10.0.0.1/8']", "[sip] allow: 10.0.0.1/8 has host bits set"),
        ("[sip]\nallow = '10.0.0.0/8'", "[sip] allow: must be a list of networks"),
        ("[sip]\nallow = [7]", "[sip] allow: must be a list of networks"),
        ("[rtp]\nport_min = 30000\nport_max = 20000", "[rtp]: port_max must be above port_min"),
        ("[rtp]\ncodecs = ['G729']", "[rtp] codecs.0"),
        ("[rtp]\ncodecs = []", "[rtp]: codecs must name"),
        ("[rtp]\ncodecs = ['PCMU', 'PCMU']", "[rtp]: codecs names a codec twice"),
        ("[rtp]\nptime_ms = 25", "[rtp] ptime_ms"),
        ("[rtp]\njitter_buffer_max_ms = 20", "[rtp] jitter_buffer_max_ms"),
        ("[rtp]\nrtcp = 'maybe'", "[rtp] rtcp: Input should be a valid boolean"),
        ("[rtp]\nstart_timeout_s = -1", "[rtp] start_timeout_s"),
        ("[rtp]\nstop_timeout_s = 'x'", "[rtp] stop_timeout_s"),
        ("[rtp]\nsilence_timeout_s = -1", "[rtp] silence_timeout_s"),
        ("[dtmf]\nmethod = 'smoke'", "[dtmf] method: Input should be 'auto', 'rfc4733', 'info' or 'inband'"),
        ("[dtmf]\nduration_ms = 39", "[dtmf] duration_ms"),
        ("[dtmf]\ndetect = true", "[dtmf] detect: unknown key"),
        ("[barge_in]\npolicy = 'always'", "[barge_in] policy: Input should be 'none', 'speech', 'digit' or 'either'"),
        ("[barge_in]\nmin_speech_ms = 59", "[barge_in] min_speech_ms"),
        ("[barge_in]\nmin_speech_ms = 241", "[barge_in] min_speech_ms"),
        ("[barge_in]\nhold_off_ms = -1", "[barge_in] hold_off_ms"),
        ("[barge_in]\nenergy_floor_db = 3", "[barge_in] energy_floor_db"),
        ("[barge_in]\naggressiveness = 4", "[barge_in] aggressiveness"),
        ("[calls]\nmax_calls = 0", "[calls] max_calls"),
        ("[calls]\nmax_text_chars = 3000\nmax_queued_chars = 10", "[calls]: max_queued_chars"),
        ("[tts]\ndefault_voice = 'bob'", "[tts]: default_voice 'bob' is not among the voices: heart"),
        ("[tts]\nvoices = {}", "[tts] voices"),
        ("[tts.voices.heart]\nspeed = 9", "[tts] voices.heart.speed"),
        ("[tts]\noverflow = 'yes'", "[tts] overflow: Input should be 'refuse' or 'embedded'"),
        ("[tts]\noverflow_max_streams = 0", "[tts] overflow_max_streams"),
        ("[calls]\nspeech_wait_s = -1", "[calls] speech_wait_s"),
        ("[tts.chatterbox]\ndevice = 'cpu'", "[tts] chatterbox.device: unknown key"),
        ("[tts.chatterbox]\ndevices = 'gpu'", '[tts] chatterbox.devices: must be "auto", "cpu", or a list of GPUs'),
        ("[tts.chatterbox]\ndevices = []", "[tts] chatterbox.devices: must be"),
        ("[tts.chatterbox]\ndevices = ['auto']", "[tts] chatterbox.devices: must be"),
        ("[tts.chatterbox]\ndevices = [0, 1]", "[tts] chatterbox.devices: must be"),
        ("[tts.chatterbox]\ndevices = 3", "[tts] chatterbox.devices: must be"),
        ("[tts.chatterbox]\ndevices = ['cuda', 'cuda:0']", "[tts] chatterbox.devices: names a device twice"),
        ("[tts.chatterbox]\ndevices = ['cuda:0', 'cpu']", "[tts] chatterbox.devices: cpu stands alone"),
        (
            "[tts.chatterbox]\ndevices = 'cpu'\nbackend = 'cuda-graphs'",
            '[tts] chatterbox: backend "cuda-graphs" needs a GPU',
        ),
        (
            "[tts.chatterbox]\ndevices = 'cpu'\nbackend = 'tensorrt'",
            '[tts] chatterbox: backend "tensorrt" needs a GPU',
        ),
        (
            "[tts.chatterbox]\nbackend = 'tensorrt'\nprecision = 'float32'",
            '[tts] chatterbox: backend "tensorrt" has engines of "bfloat16" or "float16"; precision is "float32"',
        ),
        ("[tts.chatterbox]\nbackend = 'tensor-rt'", "[tts] chatterbox.backend"),
        ("[tts.chatterbox]\nkv_memory_mb = 1", "[tts] chatterbox.kv_memory_mb"),
        ("[tts.chatterbox]\nahead_s = 1.9", "[tts] chatterbox.ahead_s"),
        ("[tts.chatterbox]\nmax_first_audio_ms = -1", "[tts] chatterbox.max_first_audio_ms"),
        ("[tts.chatterbox]\nmax_streams = 0", "[tts] chatterbox.max_streams"),
        ("[log]\nlevel = 'loud'", "[log] level"),
        ("[api]\nhost = '0.0.0.0'", "[api]: beyond this machine tokens need TLS"),
        ("[api]\nhost = 'localhost'", "[api] host: 'localhost' is not an IP address"),
        ("[api]\ntls_key = 'k.pem'", "[api]: tls_certificate and tls_key go together"),
        ("[api]\nallow_urls = ['https://example.com']", "[api] allow_urls: 'https://example.com' is not the beginning"),
        ("[api]\nallow_urls = ['ftp://example.com/']", "[api] allow_urls: 'ftp://example.com/' does not begin"),
        ("[api]\nallow_urls = ['https://a@example.com/']", "[api] allow_urls: 'https://a@example.com/' is not the"),
        ("[api]\nallow_urls = ['https://example.com:99999/']", "[api] allow_urls: 'https://example.com:99999/' has no"),
        ("[api]\nallow_networks = 7", "[api] allow_networks: must be a list of networks"),
        ("[api]\nport = 65536", "[api] port"),
        ("[api]\nmax_body_kb = 1", "[api] max_body_kb"),
        ("[agent]\nurl = 'https://agent.example.com/'", "[agent] url: 'https://agent.example.com/' does not begin"),
        ("[agent]\nurl = 'wss://'", "[agent] url: 'wss://' has no valid host"),
        ("[agent]\nbarge_in = 'never'", "[agent] barge_in"),
        ("[webhooks]\nurl = 'https://a.example/'", "[webhooks]: url needs a secret"),
        ("[webhooks]\nurl = 'wss://a.example/'\nsecret = 's'", "[webhooks] url: 'wss://a.example/' does not begin"),
        (
            "[webhooks]\nurl = 'https://a.example/ö'\nsecret = 's'",
            "[webhooks] url: 'https://a.example/ö' contains a character that has to be percent-encoded",
        ),
        ("[webhooks]\nurl = 'https://a.example/b/../c'\nsecret = 's'", "or has a fragment or dot segments"),
        ("[webhooks]\nevents = ['call.finished']", "[webhooks] events: an event type is one of call.started"),
        ("[trunks.pbx]\nhost = 'a'\nagent_url = 'ws://[::1/'", "[trunks] pbx.agent_url: 'ws://[::1/' has no valid"),
        ("[trunks.pbx]\nport = 5060", "[trunks] pbx.host"),
        ("[trunks.pbx]\nhost = 'a'\npassword = 'b'", "[trunks] pbx: password needs a username"),
        ("[trunks.pbx]\nhost = 'a'\nnetworks = '10.0.0.0/8'", "[trunks] pbx.networks: must be a list of networks"),
        ("[trunks.pbx]\nhost = 'a'\nstream_tracks = 'all'", "[trunks] pbx.stream_tracks"),
        ("sip = 3", "[sip]: must be a table"),
        ("[sip", "c.toml"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, said: str) -> None:
    assert said in error(write(tmp_path, text))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("'auto'", "auto"),
        ("'cpu'", ("cpu",)),
        ("['cpu']", ("cpu",)),
        ("'cuda'", ("cuda:0",)),
        ("'cuda:1'", ("cuda:1",)),
        ("['cuda:0', 'cuda:1']", ("cuda:0", "cuda:1")),
        ("['cuda:11']", ("cuda:11",)),
    ],
)
def test_devices(tmp_path: Path, given: str, meant: object) -> None:
    """A name is a list of one."""
    assert load(write(tmp_path, f"[tts.chatterbox]\ndevices = {given}")).tts.chatterbox.devices == meant


@pytest.mark.parametrize(
    ("given", "meant"), [("cpu", ("cpu",)), ("auto", "auto"), ('["cuda:0", "cuda:1"]', ("cuda:0", "cuda:1"))]
)
def test_devices_in_the_environment(monkeypatch: pytest.MonkeyPatch, given: str, meant: object) -> None:
    monkeypatch.setenv("CHATTERLINE_TTS__CHATTERBOX__DEVICES", given)
    assert load().tts.chatterbox.devices == meant


def test_no_devices_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_TTS__CHATTERBOX__DEVICES", "gpu0")
    assert '[tts] chatterbox.devices: must be "auto", "cpu", or a list' in error()


def test_what_serving_keeps_to_by_default() -> None:
    config = load()
    chatterbox = config.tts.chatterbox
    assert (config.tts.overflow, config.calls.speech_wait_s) == ("refuse", 3.0)
    assert (chatterbox.devices, chatterbox.backend, chatterbox.kv_memory_mb) == ("auto", "auto", 2048)
    assert chatterbox.engines_dir == ""
    assert (chatterbox.max_streams, chatterbox.max_first_audio_ms, chatterbox.ahead_s) == (200, 1000, 12.0)


def test_what_media_keeps_to_by_default() -> None:
    """Nothing listens unless asked; callers of the telephone network get its own codecs."""
    config = load()
    assert config.rtp.codecs == ("PCMU", "PCMA")
    assert (config.rtp.rtcp, config.rtp.rtcp_mux, config.rtp.jitter_buffer_max_ms) == (True, True, 200)
    assert (config.rtp.start_timeout_s, config.rtp.stop_timeout_s, config.rtp.silence_timeout_s) == (60, 60, 300)
    assert (config.dtmf.method, config.dtmf.detect_inband, config.barge_in.policy) == ("auto", False, "none")


@pytest.mark.parametrize("min_speech_ms", [60, 240])
@pytest.mark.parametrize("energy_floor_db", [-90.0, 0.0])
@pytest.mark.parametrize("aggressiveness", [0, 3])
def test_what_barge_in_may_be_set_to_it_can_do(min_speech_ms: int, energy_floor_db: float, aggressiveness: int) -> None:
    asked = BargeInConfig(
        min_speech_ms=min_speech_ms, energy_floor_db=energy_floor_db, aggressiveness=aggressiveness, hold_off_ms=0
    )
    assert settings(asked).min_speech_ms == min_speech_ms


def test_barge_in_is_set_by_default_as_it_was_measured() -> None:
    assert settings(BargeInConfig()) == BargeInSettings()


def settings(asked: BargeInConfig) -> BargeInSettings:
    fields = asked.model_dump()
    return BargeInSettings(energy_floor_dbov=fields.pop("energy_floor_db"), **fields)


def test_the_environment_reaches_sections_with_an_underscore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_BARGE_IN__POLICY", "either")
    monkeypatch.setenv("CHATTERLINE_RTP__CODECS", '["G722", "PCMU"]')
    config = load()
    assert config.barge_in.policy == "either"
    assert config.rtp.codecs == ("G722", "PCMU")


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    text = error(write(tmp_path, "[sip]\nport = 0\n[calls]\nmax_calls = 0\n"))
    assert "[sip] port" in text
    assert "[calls] max_calls" in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nowhere.toml: No such file" in error(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("name", ["CHATTERLINE_SPI__PORT", "CHATTERLINE_PORT"])
def test_misspelt_variables_are_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert name in error()


def test_a_misspelt_key_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_SIP__PROT", "1")
    assert "[sip] prot: unknown key" in error()


def test_json_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_SIP__ALLOW", "10.0.0.0/8")
    assert error() == 'environment variable CHATTERLINE_SIP__ALLOW must be JSON, such as ["..."] or {"key": 1}'


def test_a_section_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_SIP", "x")
    assert "CHATTERLINE_SIP must be JSON" in error()


def test_media_may_have_an_address_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERLINE_RTP__HOST", "127.0.0.2")
    assert load().rtp_host == "127.0.0.2"
