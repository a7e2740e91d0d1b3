"""Results to tables and pages: reads files only, needs no torch."""

from ghostnet.report.catalogue import CATALOGUE, Entry, State, records_of, state_of
from ghostnet.report.chart import line_chart
from ghostnet.report.comparison import compare, comparison_text, rows_that_were_run, tables_page
from ghostnet.report.deploy_tables import deploy_part, latency_summary
from ghostnet.report.detection import detection_section
from ghostnet.report.discrepancies import discrepancies_page
from ghostnet.report.exhibits import EXHIBITS, check_only, exhibit
from ghostnet.report.exhibits_page import exhibits_page
from ghostnet.report.figures import FIGURES, figure_file
from ghostnet.report.headline import headline, results_page
from ghostnet.report.page import demo_page, render_demo_page
from ghostnet.report.picture import demo_picture
from ghostnet.report.results import read_result, read_results
from ghostnet.report.sheets import Sheet, exhibit_text, sheets_of
from ghostnet.report.tables import demo_table, replace_section, runs_section, scores_cells, text_table
from ghostnet.report.usable import usable_records

__all__ = [
    "CATALOGUE",
    "EXHIBITS",
    "FIGURES",
    "Entry",
    "Sheet",
    "State",
    "check_only",
    "compare",
    "comparison_text",
    "demo_page",
    "demo_picture",
    "demo_table",
    "deploy_part",
    "detection_section",
    "discrepancies_page",
    "exhibit",
    "exhibit_text",
    "exhibits_page",
    "figure_file",
    "headline",
    "latency_summary",
    "line_chart",
    "read_result",
    "read_results",
    "records_of",
    "render_demo_page",
    "replace_section",
    "results_page",
    "rows_that_were_run",
    "runs_section",
    "scores_cells",
    "sheets_of",
    "state_of",
    "tables_page",
    "text_table",
    "usable_records",
]
