"""What distillation needs beside the task that it wraps: a teacher, and the loss."""
