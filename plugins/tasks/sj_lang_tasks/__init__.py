"""Tasks and models beyond language, for the spiking neurons of sj_lang."""
