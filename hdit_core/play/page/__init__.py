"""The page of `hdit play`: gradio components, HTML and the server. Gradio is imported when the page is built."""
