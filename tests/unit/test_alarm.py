"""Losses said in one line, and not too often."""

from hullwatch.alarm import LossAlarm
from hullwatch.sensor.batch import Loss
from hullwatch.sensor.wire import Class

WHOSE = {1: "the host", 7: "container agent"}.__getitem__


def test_nothing_lost_says_nothing():
    alarm = LossAlarm(WHOSE)
    assert alarm.due(0.0) is None
    alarm.add([])
    assert alarm.due(0.0, force=True) is None


def test_a_line_says_what_and_whose():
    alarm = LossAlarm(WHOSE)
    alarm.add([Loss("bulk", Class.OPEN, 7, 90), Loss("bulk", Class.CHMOD, 1, 10)])
    alarm.add([Loss("string", 0, 7, 5)])
    said = "100 at bulk, 5 at string (open 90, chmod 10), of container agent 95, the host 10"
    assert alarm.due(0.0) == said
    assert alarm.due(100.0) is None, "said once"


def test_lines_are_not_too_often_and_lose_nothing():
    alarm = LossAlarm(WHOSE)
    said = []
    for second in range(60):
        alarm.add([Loss("bulk", Class.OPEN, 1, 1)])
        said += [line for line in [alarm.due(float(second))] if line]
    said += [line for line in [alarm.due(60.0, force=True)] if line]
    assert len(said) <= 7
    assert sum(int(line.split(" ")[0]) for line in said) == 60


def test_many_containers_become_a_sum():
    alarm = LossAlarm(str)
    alarm.add(Loss("bulk", Class.OPEN, cgroup, 10 + cgroup) for cgroup in range(1, 1001))
    line = alarm.due(0.0)
    assert line is not None and len(line) < 200
    assert line.endswith("of 1000 1010, 999 1009, 998 1008, others 507473")
