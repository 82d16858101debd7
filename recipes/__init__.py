"""The recipes that ship with sj_lang: YAML files, offered through the recipes hook."""
