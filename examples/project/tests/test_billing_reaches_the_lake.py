"""`pytest` alone runs this: the fixtures come with `pip install cdcpipe`, and bring a real pipeline up."""


def test_invoices_reach_the_lake_once_and_unaltered(pipeline, verify):
    invoices = pipeline.table("invoices", "id int PRIMARY KEY, customer text NOT NULL, total numeric(12,2) NOT NULL")
    pipeline.execute(f"INSERT INTO {invoices} SELECT i, 'customer ' || i, i * 1.25 FROM generate_series(1, 1000) i")
    pipeline.execute(f"UPDATE {invoices} SET total = 0 WHERE id % 10 = 0; DELETE FROM {invoices} WHERE id % 7 = 0")
    report = verify.events()
    assert report.verdict == "pass", report.sentence()


def test_nothing_is_lost_when_the_worker_dies(pipeline, workload, faults, verify):
    with workload(rate=200, seconds=10) as load:
        with faults.kill("connect"):
            pass
        load.wait()
    report = verify.events()
    assert report["lost-change"].found == report["duplicate-row"].found == 0, report.sentence()
