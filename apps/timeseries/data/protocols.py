"""The benchmark protocols by name. Data only, so that listing them imports nothing."""

PROTOCOLS = {
    "ett-hour": "12, 4 and 4 months of 30 days of hourly rows (ETTh1, ETTh2)",
    "ett-minute": "the same of 15-minute rows (ETTm1, ETTm2)",
    "7-1-2": "70, 10 and 20 % of the rows",
}
