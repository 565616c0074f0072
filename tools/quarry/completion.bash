# SPDX-License-Identifier: MIT
# bash reads this when "quarry" is completed for the first time; the tool knows its verbs and options.
eval "$(quarry completion)"
