"""From files to panels of series: `panel` (the arrays), `reading`, `frequency`, `check`, `repair`."""
