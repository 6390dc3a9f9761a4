"""What is kept of the readings; the readings themselves are tested with the budget."""

from hybrid_detect.testing.memory_meter import CURVE_POINTS, MemoryRecorder


def test_a_curve_of_any_length_keeps_a_bounded_number_of_points():
    levels = iter(range(100_000))
    recorder = MemoryRecorder(lambda: (0, next(levels)))
    for _ in range(100_000):
        recorder.record()
    assert len(recorder.points) < 2 * CURVE_POINTS
    assert recorder.highest == 99_999
    calls = [call for call, _, _ in recorder.points]
    assert calls == sorted(calls)
    assert all(peak == call - 1 for call, _, peak in recorder.points)


def test_the_last_call_is_on_the_curve_whatever_its_number():
    levels = [0] * 600 + [50]
    readings = iter(levels)

    def read():
        level = next(readings)
        return level, level + 1

    recorder = MemoryRecorder(read)
    for _ in levels:
        recorder.record()
    assert recorder.points[-1][0] < 601
    for _ in range(2):
        recorder.finish()
        assert recorder.points[-1] == (601, 50, 51)
        assert recorder.points[-2][0] < 601
