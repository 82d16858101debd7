"""What this distribution offers. Names and texts only: nothing heavy is imported here."""

from sj_lang.hookspecs import Register, hookimpl

SPIKE_DECODER = "Beger, Walter, Knoll 2026, arXiv 2606.12287"
SNN_BERT = "Su et al., Neural Networks 180:106630 (2024); a reconstruction"


@hookimpl
def sj_lang_register(register: Register) -> None:
    register.embedding(
        "learned_sum",
        "sj_lang_language.embeddings.learned_sum:LearnedSum",
        summary="learned token and position tables, summed, then binarised",
        cite=SPIKE_DECODER,
        causal=True,
    )
    register.embedding(
        "spike_codes",
        "sj_lang_language.embeddings.spike_codes:SpikeCodes",
        summary="codes of tokens and positions, fixed or learned, side by side or summed",
        cite=SPIKE_DECODER,
        causal=True,
    )
    register.embedding(
        "bert_sum",
        "sj_lang_language.embeddings.bert_sum:BertSum",
        summary="token, position and segment tables, summed and normalized; floats",
        cite="arXiv 1810.04805",
        causal=True,
    )
    register.embedding(
        "bert_ngram",
        "sj_lang_language.embeddings.bert_ngram:BertNgram",
        summary="BERT's embedding and a convolution over neighbouring tokens, for training without pre-training",
        cite="Kim 2014, arXiv 1408.5882",
    )
    register.attention(
        "ssa",
        "sj_lang_language.attention.ssa:SpikingSelfAttention",
        summary="spiking self-attention without softmax; causal: linear memory, constant state",
        cite=SPIKE_DECODER,
        causal=True,
    )
    register.attention(
        "firing_scores",
        "sj_lang_language.attention.firing_scores:FiringScoresAttention",
        summary="self-attention without softmax: scores are spikes; reads a text as a whole",
    )
    register.attention(
        "softmax",
        "sj_lang_language.attention.softmax:SoftmaxAttention",
        summary="self-attention of spikes with softmax, causal or over the whole text",
        cite="arXiv 1706.03762",
        causal=True,
    )
    register.attention(
        "state_space",
        "sj_lang_language.attention.state_space:StateSpaceMixing",
        summary="no attention: tokens meet in the state of the neurons alone, which a gated Linear reads",
        cite="after SpikingSSM, arXiv 2408.14909",
        causal=True,
    )
    register.norm("layer", "sj_lang_language.norms.layer:LayerNorm", summary="layer normalization over the channels")
    register.norm(
        "batch",
        "sj_lang_language.norms.batch:BatchNorm",
        summary="batch normalization over the valid tokens",
        cite="arXiv 1502.03167",
    )
    register.norm(
        "power",
        "sj_lang_language.norms.power:PowerNorm",
        summary="division by a running root mean square; a Linear can absorb it",
        cite="arXiv 2003.07845",
    )
    register.model(
        "spike_decoder",
        "sj_lang_language.models.spike_decoder:SpikeDecoderConfig",
        summary="SpikeDecoder: GPT with spiking neurons, fully spiking, with its ANN twin",
        cite=SPIKE_DECODER,
    )
    register.model(
        "snn_bert",
        "sj_lang_language.models.snn_bert:SNNBertConfig",
        summary="SNN-BERT: BERT with spiking neurons along the tokens, with its ANN twin",
        cite=SNN_BERT,
    )
    register.task(
        "causal_lm",
        "sj_lang_language.tasks.causal_lm:CausalLM",
        summary="next-token prediction on any text: loss in nats per token, bits per character",
    )
    register.task(
        "recall",
        "sj_lang_language.tasks.recall:Recall",
        summary="predict the repeat of a random string, which only attention can; needs no data",
    )
    register.task(
        "masked_lm",
        "sj_lang_language.tasks.masked_lm:MaskedLM",
        summary="BERT's pre-training on any text: masked tokens, and next sentences if wanted",
        cite="Devlin, Chang, Lee, Toutanova 2019, arXiv 1810.04805",
    )
    register.task(
        "distillation",
        "sj_lang_language.tasks.distillation:Distillation",
        summary="another task, learned from its labels and from a teacher: logits and hidden states",
        cite="Hinton, Vinyals, Dean 2015, arXiv 1503.02531",
    )
    register.task(
        "text_classification",
        "sj_lang_language.tasks.text_classification:TextClassification",
        summary="classify sentences or pairs of any CSV, TSV, JSONL or parquet: accuracy, F1, Matthews",
    )
    register.task(
        "glue",
        "sj_lang_language.tasks.glue:Glue",
        summary="the nine tasks of GLUE and its diagnostic set: figures, baselines, submissions",
        cite="Wang et al. 2019, arXiv 1804.07461",
    )
    register.tokenizer(
        "characters",
        "sj_lang_language.tokenizers.characters:characters",
        summary="one token per character of the training text",
    )
    register.tokenizer(
        "bpe", "sj_lang_language.tokenizers.bpe:bpe", summary="byte-level BPE, trained on the training text"
    )
    register.tokenizer(
        "wordpiece",
        "sj_lang_language.tokenizers.wordpiece:wordpiece",
        summary="BERT's WordPiece, trained on the training text or from a vocab.txt; by characters for Chinese",
        cite="Devlin, Chang, Lee, Toutanova 2019, arXiv 1810.04805",
    )
    register.tokenizer(
        "pretrained",
        "sj_lang_language.tokenizers.pretrained:pretrained",
        summary="the tokenizer of a checkpoint: a folder, package:NAME or hub:OWNER/NAME",
    )
    register.source(
        "python-docs",
        "sj_lang_language.data.text.python_docs:PythonDocs",
        summary="the language reference inside every Python, about 450,000 characters of English",
    )
